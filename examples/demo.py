"""Train MLP and flow PWM on a real control task, evaluate both, print a table, draw the learning curves.

    make demo

Every return is the real environment reward of whole episodes that training never saw.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from pwm.analysis.plots.visualization import plot_comparison
from pwm.checkpoints.policy_evaluation import HELD_OUT_SEED, evaluate_policy
from pwm.configuration.building import build_agent, build_env
from pwm.configuration.config import ExperimentConfig, compose_config
from pwm.numbers import readable
from pwm.runs.run import train
from pwm.training.evaluation import evaluate

TASK = "gym_Pendulum-v1"
TASK_OVERRIDES = ["env=gym", "env.id=Pendulum-v1"]
ARMS = {
    "MLP": ["alg=pwm_small"],
    "flow": ["alg=pwm_small_flow"],
}
COMMON = [
    "general.eval_every=10",
    # One thread is as fast for networks of this size, and much faster beside other programs.
    "general.threads=1",
]
EPISODES = 32


def untrained_return(config: ExperimentConfig) -> float:
    """Held-out return of the policy before any training."""
    env = build_env(config, EPISODES, HELD_OUT_SEED, torch.device("cpu"))
    agent = build_agent(config, env.spec, torch.device("cpu"))
    result = evaluate(env, lambda obs: agent.act(obs, deterministic=True), EPISODES, HELD_OUT_SEED)
    env.close()
    return result.mean


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("logs/demo"), help="where runs and picture go")
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rows, folders, reference = [], {}, {}
    for number, (label, arm) in enumerate(ARMS.items(), start=1):
        print(f"{number} of {len(ARMS)}: {label} world model and policy on {TASK}", flush=True)
        config = compose_config(
            [
                *TASK_OVERRIDES,
                *arm,
                *COMMON,
                f"general.seed={args.seed}",
                f"general.epochs={args.epochs}",
                f"general.logdir={args.output}",
            ]
        )
        folder = train(config).folder
        result = evaluate_policy(folder / "final_policy.pt", EPISODES, HELD_OUT_SEED, "cpu", TASK)
        reference = result["reference"]
        manifest = json.loads((folder / "manifest.json").read_text())
        records = (folder / "metrics.jsonl").read_text().splitlines()
        folders[label] = folder
        rows.append(
            (
                label,
                readable(untrained_return(config), 0),
                f"{readable(result['mean'], 0)} +- {readable(result['std'], 0)}",
                f"{json.loads(records[-1])['wall_time']:.0f}",
                f"{manifest['parameters']['world_model']}",
            )
        )
    picture = args.output / "learning_curves.png"
    plot_comparison(folders, picture, f"{TASK}, seed {args.seed}", reference)
    print(f"\n{TASK}: mean return of {EPISODES} held-out episodes, deterministic policy, real rewards")
    floor = {name: readable(score, 0) for name, score in reference.items()}
    print(f"doing nothing scores {floor['zero_action']}, random {floor['random_action']}\n")
    widths = (9, 10, 14, 8, 22)
    header = ("dynamics", "untrained", "trained", "seconds", "world-model parameters")
    for row in [header, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
    print(f"\nlearning curves: {picture}")


if __name__ == "__main__":
    main()
