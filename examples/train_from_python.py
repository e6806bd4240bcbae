"""Train a policy from Python, look at what it recorded, and evaluate it on episodes that training never saw.

python examples/train_from_python.py --epochs 100
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pwm.checkpoints.policy_evaluation import HELD_OUT_SEED, evaluate_policy
from pwm.configuration.config import compose_config
from pwm.logging.loggers import read_metrics
from pwm.runs.run import train


def main() -> None:
    """Train, look, evaluate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--logdir", type=Path, default=Path("logs/examples"))
    parser.add_argument("overrides", nargs="*", help="further ones, as those of `pwm train`")
    args = parser.parse_args()

    # The overrides are those of `pwm train`; what is not named has the value of the preset.
    config = compose_config(
        [
            "env=gym",
            "env.id=Pendulum-v1",
            "alg=pwm_small_flow",
            f"general.epochs={args.epochs}",
            "general.threads=1",
            f"general.logdir={args.logdir}",
            *args.overrides,
        ]
    )
    # The same call again continues a run that was interrupted, and recognises one that is finished.
    result = train(config)
    print(f"{result.outcome}: {result.folder}, best {result.best_return:.0f} at epoch {result.best_epoch}")

    records = read_metrics(result.folder / "metrics.jsonl")
    evaluated = [record for record in records if "eval/episode_return" in record]
    for record in evaluated:
        print(f"{record['env_steps']:>8.0f} steps  return {record['eval/episode_return']:.0f}")

    held_out = evaluate_policy(result.folder / "final_policy.pt", 16, HELD_OUT_SEED, "cpu", None)
    print(f"final policy, 16 held-out episodes: {held_out['mean']:.0f} +- {held_out['std']:.0f}")


if __name__ == "__main__":
    main()
