"""Load a policy and roll it out in its own world model: what it expects to happen, and to earn.

python examples/imagine.py logs/gym_Pendulum-v1/pwm_small_flow/seed42 --steps 5
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from pwm.algorithm.losses import imagine
from pwm.checkpoints.policies import load_policy
from pwm.checkpoints.policy_evaluation import HELD_OUT_SEED
from pwm.checkpoints.policy_files import find_policy
from pwm.configuration.building import build_env

COPIES = 8


@torch.no_grad()
def main() -> None:
    """Imagine from the first observations of held-out episodes and act along in the real task."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run folder or policy file")
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    agent, config, spec, progress = load_policy(find_policy(args.run, "best"), torch.device("cpu"))
    print(f"{spec.name}, {config.run_name}, {progress['env_steps']:.0f} environment steps")

    env = build_env(config, COPIES, HELD_OUT_SEED, torch.device("cpu"))
    obs = env.reset()
    z = agent.world_model.encode(obs)  # [8, latent]
    # Without noise the policy takes its best action. Rewards come in the scale that the model learned in.
    rollout = imagine(agent.world_model, agent.policy, z, None, args.steps)
    expected = rollout.rewards * agent.reward_scale  # [steps, 8]
    print("step   expected reward   real reward, same actions")
    for t, action in enumerate(rollout.actions):
        real = env.step(action).reward
        print(f"{t + 1:>4}   {expected[t].mean():>15.3f}   {real.mean():>11.3f}")
    env.close()


if __name__ == "__main__":
    main()
