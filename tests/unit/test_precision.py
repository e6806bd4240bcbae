"""``general.precision``: products of training alone, and nothing of it stays behind."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.end_to_end.tiny import ANALYTIC, train, trained

from pwm.configuration.config import compose_config
from pwm.errors import ConfigError
from pwm.models import precision
from pwm.models.precision import products_in, warn_if_slow
from pwm.training.trainers.online.trainer import OnlineTrainer


def test_training_is_in_bfloat16_and_evaluations_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[str]] = {}
    for name in ("warm_up", "run_epoch", "evaluate", "gradient_quality"):
        original = getattr(OnlineTrainer, name)

        def noting(self: Any, *args: Any, original: Any = original, name: str = name) -> Any:
            seen.setdefault(name, set()).add(torch.get_float32_matmul_precision())
            return original(self, *args)

        monkeypatch.setattr(OnlineTrainer, name, noting)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    before = torch.get_float32_matmul_precision()
    trained(tmp_path, *ANALYTIC, "general.precision=bfloat16", "general.esnr_every=1")
    assert seen == {
        "warm_up": {"medium"},
        "run_epoch": {"medium"},
        "evaluate": {before},
        "gradient_quality": {before},
    }
    assert torch.get_float32_matmul_precision() == before


def test_products_are_off_by_no_more_than_their_factors_are_rounded() -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(256, 256, generator=generator) for _ in range(2))
    with products_in("bfloat16"):
        rounded = x @ w
    # Each factor is off by at most 2^-9 of itself.
    assert bool(((rounded - x @ w).abs() <= 2.0**-8 * (x.abs() @ w.abs())).all())
    with products_in("float32"):
        assert torch.equal(x @ w, x @ w)


def test_it_decides_the_numbers_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained(tmp_path, *ANALYTIC)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        assert train(tmp_path, *ANALYTIC, "general.precision=bfloat16") == 2
    assert "general.precision" in capsys.readouterr().err


def test_unknown_ones_are_refused_and_useless_ones_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"general\.precision='half'; choose one of: float32, bfloat16"):
        compose_config([*ANALYTIC, "general.precision=half"])
    monkeypatch.setattr(precision.torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    with pytest.warns(RuntimeWarning, match="no instructions for bfloat16"):
        warn_if_slow("bfloat16", torch.device("cpu"))
    warn_if_slow("float32", torch.device("cpu"))
