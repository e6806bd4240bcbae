"""How long a run will take on this machine, measured in a few seconds."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable

import torch

from pwm.configuration.building import build_env, build_trainer, pick_device
from pwm.configuration.config import ExperimentConfig
from pwm.envs.base import VectorEnv
from pwm.logging.monitoring import PhaseTimer
from pwm.models import fused
from pwm.training.agent_trainer import AgentTrainer
from pwm.training.trainer import Trainer

STEPS = 20
MATRIX = 1024


def measured_seconds(config: ExperimentConfig, threads: int) -> float:
    """Seconds of the whole run: one epoch, a few steps of its environments, and what they add up to.

    Evaluations count as if all their episodes had full length. Nothing is written.

    Raises:
        PwmError: the configuration cannot be trained here.
    """
    torch.set_num_threads(threads)
    device = pick_device(config.general.device)
    work, updates = config.alg.work, config.alg.model_learning.wm_iterations
    kernels = fused.enabled(config.general.kernels)
    with contextlib.closing(build_trainer(config, device)) as trainer, kernels:
        timer = PhaseTimer()
        # The first epoch also allocates and compiles.
        trainer.run_epoch(0.0, timer)
        timer.flush()
        epoch = _seconds(lambda: trainer.run_epoch(0.0, timer))
        update = timer.flush().get("time/wm", 0.0) / max(updates, 1)
        evaluation = _evaluation_seconds(trainer, config.general.eval_runs)
    warmup = work.warmup_updates * update
    if work.warmup_steps:
        with contextlib.closing(build_env(config, work.collecting, config.general.seed, device)) as env:
            still = torch.zeros(work.collecting, env.spec.act_dim, device=device)
            warmup += work.warmup_steps * step_seconds(env, lambda obs: still)
    evaluations = 1 + math.ceil(config.epochs / config.eval_every)
    return warmup + config.epochs * epoch + evaluations * evaluation


def _evaluation_seconds(trainer: Trainer, episodes: int) -> float:
    """Seconds of an evaluation; whole where it needs no environment, else from a few steps."""
    env = trainer.eval_env
    if env is None or not isinstance(trainer, AgentTrainer):
        return _seconds(lambda: trainer.evaluate(episodes))
    step = step_seconds(env, lambda obs: trainer.agent.act(obs, deterministic=True))
    return math.ceil(episodes / env.num_envs) * env.spec.episode_length * step


@functools.cache
def matrix_speed(device_name: str, threads: int) -> float:
    """Floating-point operations per second of large float32 matrix products, measured once."""
    torch.set_num_threads(threads)
    device = pick_device(device_name)
    matrix = torch.ones(MATRIX, MATRIX, device=device)

    def multiply() -> None:
        for _ in range(STEPS):
            product = matrix @ matrix
        # Waits for the device.
        float(product[0, 0])

    multiply()
    return STEPS * 2 * MATRIX**3 / _seconds(multiply)


@torch.no_grad()
def step_seconds(env: VectorEnv, policy: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Seconds of one step of all copies of ``env`` under ``policy``, from observations to actions."""

    def steps() -> None:
        obs = env.reset(0)
        for _ in range(STEPS):
            obs = env.step(policy(obs)).obs

    return _seconds(steps) / STEPS


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
