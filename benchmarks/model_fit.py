"""How well a world model learns random transitions of one task, and which of its settings matter.

    python benchmarks/model_fit.py --task dflex_cartpole

Fits the world model of ``pwm_small_<dynamics>`` to the same random transitions under several settings and
writes a table into ``results/model_fit``: relative open-loop latent error after 1, 4 and 16 steps (1 = no
better than predicting "no change") and the explained share of the reward's variance, on other transitions.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path

import torch

from pwm.algorithm.agent import Agent
from pwm.algorithm.diagnostics import open_loop_error
from pwm.data.batch import Batch
from pwm.data.replay import ReplayBuffer
from pwm.envs.base import VectorEnv
from pwm.experiment.checkpoints import write_text
from pwm.experiment.config import ExperimentConfig, compose_config
from pwm.experiment.policies import build_agent
from pwm.experiment.run import build_env

RESULTS = Path(__file__).parents[1] / "results" / "model_fit"
STEPS = 900
HELD_OUT = 1500
EQUAL = ("alg.dynamics_coef=1", "alg.simnorm_scale=1", "alg.encoder_lr_scale=1", "alg.dynamics.output_gain=1")
# The dynamics loss grows with the square of the latents' scale.
WEIGHTED = ("alg.dynamics_coef=1024", *EQUAL[1:])
VARIANTS = {
    "equal weights": EQUAL,
    "weighted": WEIGHTED,
    "weighted, scaled latents": (*EQUAL[2:],),
    "weighted, scaled latents, slow encoder": (EQUAL[3],),
    "preset": (),
}


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


def fit(
    config: ExperimentConfig, env: VectorEnv, replay: ReplayBuffer, test: Batch, updates: int
) -> list[float]:
    """Train a fresh world model; returns the relative errors and the explained reward."""
    agent = build_agent(config, env.spec, torch.device("cpu"))
    everything = replay.gather(torch.arange(len(replay)))
    agent.observe(everything.obs[0], everything.reward[0])
    for _ in range(updates):
        agent.update_world_model(replay.sample(config.alg.wm_batch_size, agent.generator))
    errors = open_loop_error(agent.world_model, test, (1, 4, 16))
    return [*errors.tolist(), explained_reward(agent, test)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit every variant and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="dflex_cartpole", help="name of an environment file")
    parser.add_argument("--algorithm", default="pwm_small_flow")
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    base = [f"env={chosen.task}", f"alg={chosen.algorithm}", "general.seed=1"]
    config = compose_config(base)
    env = build_env(config, config.alg.num_envs, 1, torch.device("cpu"))
    replay = collect(env, seed=1)
    test = collect(env, seed=2).sample(HELD_OUT, torch.Generator().manual_seed(0))
    columns = ("algorithm", "settings", "updates", "error_k1", "error_k4", "error_k16", "explained_reward")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    print(*columns, sep="\t")
    for name, overrides in VARIANTS.items():
        values = fit(compose_config([*base, *overrides]), env, replay, test, chosen.updates)
        row = [chosen.algorithm, name, chosen.updates, *(f"{value:.4f}" for value in values)]
        writer.writerow(row)
        print(*row, sep="\t", flush=True)
    env.close()
    write_text(RESULTS / f"{chosen.task}_{chosen.algorithm}.csv", text.getvalue())


if __name__ == "__main__":
    main()
