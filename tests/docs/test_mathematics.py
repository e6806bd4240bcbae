"""docs/mathematics.md names functions that exist, and its claims about heads and bins hold."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from pwm.models.layers import SimNorm
from pwm.models.scalar_heads import TwoHotHead, symlog

PAGE = Path(__file__).resolve().parents[2] / "docs" / "mathematics.md"
NAMES = sorted(set(re.findall(r"`(pwm(?:\.\w+)+)`", PAGE.read_text(encoding="utf-8"))))


def resolved(path: str) -> Any:
    """Return the module, or the attribute of a module or class, at a dotted name."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(path)


@pytest.mark.parametrize("name", NAMES)
def test_functions_exist(name: str) -> None:
    assert resolved(name) is not None


def test_equal_outputs_decode_to_zero() -> None:
    head = TwoHotHead(101, -10.0, 10.0)
    equal = torch.tensor([-3.0, 0.5, 700.0])[:, None].expand(-1, 101)
    torch.testing.assert_close(head.decode(equal), torch.zeros(3), atol=1e-5, rtol=0)


def test_the_mean_of_a_target_is_the_reward() -> None:
    head = TwoHotHead(101, -10.0, 10.0)
    reward = torch.tensor([-900.0, -0.3, 0.0, 2.0, 20_000.0])
    torch.testing.assert_close(head.two_hot(reward) @ head.bins, symlog(reward), atol=1e-4, rtol=1e-5)


def test_simnorm_stays_away_from_every_velocity() -> None:
    size, scale = 8, 8.0
    x = torch.randn(1000, size, generator=torch.Generator().manual_seed(0))
    simnorm = SimNorm(size, scale)
    latents = simnorm(x)
    velocity = latents[1:] - latents[:-1]
    assert float((simnorm(3.0 * x[1:]) - velocity).square().sum(-1).min()) >= scale**2 / size
