"""How well a world model learns random transitions of one task, and which of its settings matter.

    python benchmarks/model_fit.py --study recipe --tasks dflex_cartpole
    python benchmarks/model_fit.py --study dynamics

Fits world models of ``pwm_small_h16*`` to the same random transitions under several settings and writes one
row per fit into ``results/model_fit/<study>.csv``: relative open-loop latent error after 1, 4 and 16 steps
(1 = no better than predicting "no change"), the explained share of the reward's variance, both on other
transitions, and CPU seconds of training. The seed decides weights and batches; the transitions are the same.
Stored fits are not repeated.
"""

from __future__ import annotations

import argparse
import csv
import io
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from pwm.algorithm.agent import Agent
from pwm.algorithm.diagnostics import open_loop_error
from pwm.configuration.building import build_agent, build_env
from pwm.configuration.config import ExperimentConfig, compose_config
from pwm.data.batch import Batch
from pwm.data.replay import ReplayBuffer
from pwm.envs.base import VectorEnv
from pwm.files import write_text

RESULTS = Path(__file__).parents[1] / "results" / "model_fit"
STEPS = 900
HELD_OUT = 1500
UPDATES = 1500
ALGORITHM = "alg=pwm_small_h16_flow"
TASKS: dict[str, tuple[str, ...]] = {
    "gym_Pendulum-v1": ("env=gym", "env.id=Pendulum-v1"),
    "gym_Reacher-v5": ("env=gym", "env.id=Reacher-v5"),
    "gym_HalfCheetah-v5": ("env=gym", "env.id=HalfCheetah-v5"),
    "dflex_cartpole": ("env=dflex_cartpole", "env.num_threads=1"),
    "dflex_hopper": ("env=dflex_hopper", "env.num_threads=1"),
    "dflex_ant": ("env=dflex_ant", "env.num_threads=1"),
}
EQUAL = ("alg.dynamics_coef=1", "alg.simnorm_scale=1", "alg.encoder_lr_scale=1", "alg.dynamics.output_gain=1")
# The dynamics loss grows with the square of the latents' scale.
WEIGHTED = ("alg.dynamics_coef=1024", *EQUAL[1:])
STUDIES: dict[str, dict[str, tuple[str, ...]]] = {
    # Every line adds to the one above.
    "recipe": {
        "equal weights": (ALGORITHM, *EQUAL),
        "weighted": (ALGORITHM, *WEIGHTED),
        "scaled latents": (ALGORITHM, *EQUAL[2:]),
        "slow encoder": (ALGORITHM, EQUAL[3]),
        "output gain (preset)": (ALGORITHM,),
    },
    "dynamics": {
        "MLP": ("alg=pwm_small_h16",),
        "residual": ("alg=pwm_small_h16_residual",),
        "flow": (ALGORITHM,),
        "flow, tau at the nodes": (ALGORITHM, "alg.flow_tau_sampling=nodes"),
        "flow, tau 0.5": (ALGORITHM, "alg.flow_tau_sampling=midpoint"),
        "flow, teacher source": (ALGORITHM, "alg.flow_source=teacher"),
        "flow, tangent head": (ALGORITHM, "alg.velocity_head=tangent"),
        "flow, simnorm head": (ALGORITHM, "alg.velocity_head=simnorm"),
        "flow, Euler K=4": (ALGORITHM, "alg.flow_substeps=4"),
        "flow, Heun K=1": (ALGORITHM, "alg.flow_integrator=heun"),
        "flow, Heun K=2": (ALGORITHM, "alg.flow_integrator=heun", "alg.flow_substeps=2"),
        "flow, RK4 K=1": (ALGORITHM, "alg.flow_integrator=rk4"),
    },
}
COLUMNS = ("task", "settings", "seed", "error_k1", "error_k4", "error_k16", "explained_reward", "cpu_seconds")


def collect(env: VectorEnv, seed: int) -> ReplayBuffer:
    """Random transitions of ``env``."""
    spec, generator = env.spec, torch.Generator().manual_seed(seed)
    replay = ReplayBuffer(env.num_envs * (2 * STEPS + 20), env.num_envs, spec.obs_dim, spec.act_dim, 16)
    obs = env.reset(seed)
    for _ in range(STEPS):
        action = torch.rand(env.num_envs, spec.act_dim, generator=generator) * 2 - 1
        result = env.step(action)
        replay.add(obs, action, result.reward, result.terminated, result.truncated, result.final_obs)
        obs = result.obs
    return replay


@torch.no_grad()
def explained_reward(agent: Agent, batch: Batch) -> float:
    """1 - mean squared error of the predicted reward / variance of the reward."""
    model = agent.world_model
    raw = model.reward(model.encode(batch.obs[:-1]), batch.action)
    error = (model.reward_head.decode(raw) * agent.reward_scale - batch.reward)[batch.valid]
    return 1.0 - float(error.square().mean() / batch.reward[batch.valid].var())


def fit(config: ExperimentConfig, env: VectorEnv, replay: ReplayBuffer, test: Batch) -> list[float]:
    """Train a fresh world model; returns relative errors, the explained reward and CPU seconds."""
    agent = build_agent(config, env.spec, torch.device("cpu"))
    everything = replay.gather(torch.arange(len(replay)))
    agent.model.observe(everything.obs[0], everything.reward[0])
    started = time.process_time()
    for _ in range(UPDATES):
        agent.model.update(replay.sample(config.alg.model_learning.wm_batch_size, agent.generator))
    seconds = time.process_time() - started
    errors = open_loop_error(agent.world_model, test, (1, 4, 16))
    return [*errors.tolist(), explained_reward(agent, test), seconds]


def study_task(study: str, task: str, seeds: Sequence[int], rows: list[list[str]]) -> None:
    """Append to ``rows`` (and store) the fits of one task that are not there yet."""
    wanted = [(name, seed) for name in STUDIES[study] for seed in seeds]
    missing = [w for w in wanted if [task, w[0], str(w[1])] not in [row[:3] for row in rows]]
    if not missing:
        return
    overrides = TASKS[task]
    settings = compose_config([*overrides, ALGORITHM])
    env = build_env(settings, settings.alg.num_envs, 1, torch.device("cpu"))
    replay = collect(env, seed=1)
    test = collect(env, seed=2).sample(HELD_OUT, torch.Generator().manual_seed(0))
    for name, seed in missing:
        config = compose_config([*overrides, *STUDIES[study][name], f"general.seed={seed}"])
        *errors, seconds = fit(config, env, replay, test)
        row = [task, name, str(seed), *(f"{value:.4f}" for value in errors), f"{seconds:.1f}"]
        rows.append(row)
        print(*row, sep="\t", flush=True)
        store(study, rows)
    env.close()


def load(study: str) -> list[list[str]]:
    """Stored rows without the header."""
    path = RESULTS / f"{study}.csv"
    return list(csv.reader(io.StringIO(path.read_text())))[1:] if path.exists() else []


def store(study: str, rows: list[list[str]]) -> None:
    """Write all rows."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    write_text(RESULTS / f"{study}.csv", text.getvalue())


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", choices=STUDIES, default="dynamics")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    rows = load(chosen.study)
    print(*COLUMNS, sep="\t")
    for task in chosen.tasks:
        study_task(chosen.study, task, chosen.seeds, rows)


if __name__ == "__main__":
    main()
