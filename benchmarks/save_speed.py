"""What saving the resumable state costs with a full buffer of a million transitions (ant sizes, CPU).

The first save writes the whole buffer; every later one what was added since, here what 20 epochs add. The
time of a later save is also given as a share of the default interval between saves.

Run with ``python benchmarks/save_speed.py``.
"""

from __future__ import annotations

import tempfile
import time

import torch

from pwm.configuration.building import build_agent, build_env
from pwm.configuration.config import General, compose_config
from pwm.runs.run_folder import RunFolder
from pwm.training.trainers.online.trainer import OnlineTrainer

CAPACITY = 1_000_000
EPOCHS_BETWEEN_SAVES = 20
LATER_SAVES = 5
CPU = torch.device("cpu")


def _add_steps(trainer: OnlineTrainer, steps: int) -> None:
    spec, n = trainer.env.spec, trainer.env.num_envs
    obs, action, reward = torch.randn(n, spec.obs_dim), torch.zeros(n, spec.act_dim), torch.zeros(n)
    goes_on = torch.zeros(n, dtype=torch.bool)
    for _ in range(steps):
        trainer.replay.add(obs, action, reward, goes_on, goes_on, obs)


def measure(preset: str = "pwm_5M_flow") -> dict[str, float]:
    """Seconds of the first and of a later save, its share of the save interval, and bytes written."""
    with tempfile.TemporaryDirectory() as logdir:
        overrides = ["env=dflex_ant", f"alg={preset}", f"alg.buffer_size={CAPACITY}"]
        config = compose_config([*overrides, f"general.logdir={logdir}"])
        env = build_env(config, config.alg.num_envs, 0, CPU)
        trainer = OnlineTrainer(config.alg, env, build_agent(config, env.spec, CPU))
        for updater in trainer.agent.updaters.values():
            # One update, so that the optimisers hold what they hold later.
            updater.step(torch.stack([p.square().sum() for p in updater.parameters]).sum())
        _add_steps(trainer, CAPACITY // env.num_envs)
        folder = RunFolder(config, trainer)
        folder.path.mkdir(parents=True)
        seconds = []
        for _ in range(1 + LATER_SAVES):
            start = time.perf_counter()
            folder.save_state({})
            seconds.append(time.perf_counter() - start)
            _add_steps(trainer, EPOCHS_BETWEEN_SAVES * config.alg.objective.horizon)
        written = (folder.path / "latest.pt").stat().st_size
        written += max((folder.path / "replay").iterdir()).stat().st_size
        env.close()
    later = sorted(seconds[1:])[LATER_SAVES // 2]
    return {
        f"{preset}/first_seconds": seconds[0],
        f"{preset}/later_seconds": later,
        f"{preset}/percent_of_interval": 100 * later / General().save_interval,
        f"{preset}/later_megabytes": written / 1e6,
    }


if __name__ == "__main__":
    for name in ("pwm_small_flow", "pwm_5M_flow", "pwm_48M_flow"):
        print({key: round(value, 3) for key, value in measure(name).items()})
