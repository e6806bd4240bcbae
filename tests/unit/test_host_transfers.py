"""How often an epoch makes the host wait for the device, counted on the CPU, where it shows."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.offline_data import block, write_store
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pwm.configuration.building import build_trainer
from pwm.configuration.config import compose_config
from pwm.logging.monitoring import PhaseTimer

# Operations whose result the host needs before it can go on: a number, or a shape that depends on entries.
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "repeat_interleave"}
# Methods of tensors that copy to the host without an operation that a dispatch mode sees.
COPYING = ("tolist", "numpy", "cpu")
WALKER, REACHER = 1, 4
SMALL = [
    "alg.dynamics.units=[16]",
    "alg.reward_units=[16]",
    "general.epochs=5",
]
POLICY = [
    *SMALL,
    "alg.actor.units=[16]",
    "alg.critic_units=[16]",
    "alg.num_envs=4",
    "alg.wm_batch_size=16",
    "alg.warmup_env_steps=100",
    "alg.warmup_updates=1",
]


class Questions(TorchDispatchMode):
    """Collects where the package asks the device something, but for simulators, which live on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def note(self, what: str) -> None:
        frame = sys._getframe(1)
        while frame is not None and "/src/pwm/" not in frame.f_code.co_filename:
            frame = frame.f_back  # type: ignore[assignment]
        file = frame.f_code.co_filename.partition("/src/pwm/")[2]
        if not file.startswith("envs/"):
            self.places.append(f"{what} in {file}:{frame.f_lineno}")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition("::")[2].partition(".")[0]
        masks = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if name in WAITING or masks:
            self.note(name)
        return func(*args, **(kwargs or {}))


def asked(epoch: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the host asks the device during ``epoch``."""
    mode = Questions()
    for method in COPYING:
        original = getattr(Tensor, method)

        def copying(self: Tensor, *args: Any, original: Any = original, method: str = method) -> Any:
            mode.note(method)
            return original(self, *args)

        monkeypatch.setattr(Tensor, method, copying)
    with mode:
        epoch()
    return mode.places


@pytest.mark.parametrize("alg", ["pwm_small", "pwm_small_flow", "pwm_small_h16_residual", "pwm"])
def test_an_epoch_of_online_training_asks_twice(alg: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the number of stored transitions, from which samples are drawn, and for all that is reported."""
    trainer = build_trainer(
        compose_config([f"alg={alg}", "env=dflex_hopper", "env.num_threads=1", *POLICY]), torch.device("cpu")
    )
    trainer.warm_up()
    trainer.run_epoch(0.0, PhaseTimer())
    places = asked(lambda: trainer.run_epoch(0.0, PhaseTimer()), monkeypatch)
    trainer.close()
    assert 1 <= len(places) <= 2, places


def test_an_epoch_of_pretraining_asks_once_beside_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data sets are on the host; drawing their windows is the only thing that asks for anything else."""
    folder = write_store(tmp_path / "data", [block(WALKER, 4, 9), block(REACHER, 5, 12)])
    config = compose_config(
        [
            "alg.trainer=pretraining",
            "alg=pwm_multitask_flow",
            f"alg.data={folder}",
            "alg.held_out=0.3",
            *SMALL,
        ]
        + ["alg.wm_iterations=3", "alg.wm_batch_size=8", "alg.encoder_units=[16]", "alg.latent_dim=16"]
    )
    trainer = build_trainer(config, torch.device("cpu"))
    trainer.warm_up()
    places = asked(lambda: trainer.run_epoch(0.0, PhaseTimer()), monkeypatch)
    beside = [place for place in places if "data/offline" not in place]
    assert len(beside) == 1 + 3, places
