"""How long a run will take on this machine, measured in a few seconds."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable

import torch

from pwm.configuration.building import build_agent, build_env, pick_device
from pwm.configuration.config import ExperimentConfig
from pwm.envs.base import VectorEnv
from pwm.logging.monitoring import PhaseTimer
from pwm.models import fused
from pwm.training.evaluation import EVAL_ENVS, EVALUATION_SEED
from pwm.training.trainers.online.trainer import OnlineTrainer

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
    alg, general = config.alg, config.general
    short = dataclasses.replace(config, alg=dataclasses.replace(alg, warmup_env_steps=0, warmup_updates=0))
    eval_copies = min(EVAL_ENVS, general.eval_runs)
    env = build_env(short, alg.num_envs, general.seed, device)
    eval_env = build_env(short, eval_copies, EVALUATION_SEED, device)
    kernels = fused.enabled(general.kernels)
    with contextlib.closing(env), contextlib.closing(eval_env), kernels:
        agent = build_agent(short, env.spec, device)
        trainer = OnlineTrainer(short.alg, env, agent)
        timer = PhaseTimer()
        # The first epoch also allocates and compiles.
        trainer.run_epoch(0.0, timer)
        timer.flush()
        epoch = _seconds(lambda: trainer.run_epoch(0.0, timer))
        update = timer.flush().get("time/wm", 0.0) / max(alg.model_learning.wm_iterations, 1)
        step = step_seconds(env, lambda obs: torch.zeros(len(obs), env.spec.act_dim, device=device))
        eval_step = step_seconds(eval_env, lambda obs: agent.act(obs, deterministic=True))
    warmup = alg.warmup_updates * update + math.ceil(alg.warmup_env_steps / alg.num_envs) * step
    rounds = math.ceil(general.eval_runs / eval_copies)
    evaluations = 1 + math.ceil(config.epochs / config.eval_every)
    return warmup + config.epochs * epoch + evaluations * rounds * eval_env.spec.episode_length * eval_step


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
