"""A task of your own: a Gymnasium environment in a module, trained like any other.

    python examples/own_task.py --epochs 100

The command line finds it, too, where the module is in the working folder:

    cd examples && pwm train env=gym env.id=own_task:Docking-v0 alg=pwm_small_residual
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

# Seconds of a step, and what a unit of action accelerates by.
STEP, FORCE = 0.1, 2.0


class Docking(gymnasium.Env[np.ndarray, np.ndarray]):
    """Bring a drifting body to the origin and to rest, with little fuel.

    Observations [4] are position and velocity in the plane, actions [2] accelerations in [-1, 1].
    """

    def __init__(self, fuel: float = 0.01) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._fuel = fuel
        self._state = np.zeros(4)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._state = self.np_random.uniform(-1.0, 1.0, 4)
        return self._state.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        position, velocity = self._state[:2], self._state[2:]
        velocity = velocity + STEP * FORCE * action
        position = position + STEP * velocity
        self._state = np.concatenate((position, velocity))
        reward = -float(position @ position + 0.1 * velocity @ velocity + self._fuel * action @ action)
        # Far away nothing can be learned any more; the time limit is that of the registration.
        return self._state.astype(np.float32), reward, bool(np.abs(position).max() > 10.0), False, {}


# Run as a script this file is read twice: as the script, and as the module that the id names.
if "Docking-v0" not in gymnasium.registry:
    gymnasium.register("Docking-v0", entry_point="own_task:Docking", max_episode_steps=100)


def main() -> None:
    """Train on the task and compare with doing nothing."""
    from pwm.checkpoints.policy_evaluation import HELD_OUT_SEED, evaluate_policy
    from pwm.configuration.config import compose_config
    from pwm.runs.run import train

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--logdir", type=Path, default=Path("logs/examples"))
    parser.add_argument("overrides", nargs="*", help="further ones, as those of `pwm train`")
    args = parser.parse_args()
    config = compose_config(
        [
            "env=gym",
            "env.id=own_task:Docking-v0",
            "env.kwargs.fuel=0.02",
            "alg=pwm_small_residual",
            f"general.epochs={args.epochs}",
            "general.threads=1",
            f"general.logdir={args.logdir}",
            *args.overrides,
        ]
    )
    folder = train(config).folder
    result = evaluate_policy(folder / "final_policy.pt", 16, HELD_OUT_SEED, "cpu", None)
    floor = result["reference"]
    print(
        f"policy {result['mean']:.2f}, doing nothing {floor['zero_action']:.2f}, at random "
        f"{floor['random_action']:.2f}"
    )


if __name__ == "__main__":
    main()
