"""Which Gymnasium ids train, and in which words the others are refused: writes results/gym_ids.csv.

Every id of Gymnasium's own registry, and some of packages where they are installed (gymnasium-robotics;
dm_control through shimmy), is trained for three epochs with tiny networks, as ``pwm train`` would.

    pip install 'gymnasium[box2d]' gymnasium-robotics 'shimmy[dm-control]'
    python benchmarks/gym_ids.py [ID ...]
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import logging
import tempfile
import time
import warnings
from importlib import metadata, util
from pathlib import Path

import gymnasium
import torch

from pwm.analysis.plots.visualization import TrainingVisualizer
from pwm.files import write_text
from pwm.launch.cli import main as pwm

RESULT = Path(__file__).parents[1] / "results" / "gym_ids.csv"
SIZES = """
alg=pwm_small general.epochs=3 general.eval_every=3 general.eval_runs=2 general.progress=false
general.threads=1 general.esnr_every=0 env=gym env.episode_length=50 alg.horizon=4 alg.num_envs=4
alg.latent_dim=16 alg.encoder_units=[16] alg.reward_units=[16] alg.termination_units=[8]
alg.critic_units=[16] alg.dynamics.units=[16] alg.actor.units=[16] alg.actor_batch_size=8
alg.wm_batch_size=8 alg.wm_iterations=2 alg.critic_iterations=2 alg.actor_iterations=1
alg.buffer_size=2000 alg.warmup_env_steps=40 alg.warmup_updates=2
"""
# Module that registers ids, the package it belongs to, and some of its ids of every kind.
OTHERS = {
    "gymnasium_robotics": (
        "gymnasium-robotics",
        "FetchReach-v4 FetchReachDense-v4 FetchPush-v4 FetchSlide-v4 FetchPickAndPlace-v4 HandReach-v3 "
        "HandManipulateBlock-v1 PointMaze_UMaze-v3 AntMaze_UMaze-v5 AdroitHandDoor-v1 AdroitHandPen-v1 "
        "FrankaKitchen-v1",
    ),
    "shimmy": (
        "shimmy",
        "dm_control/cartpole-swingup-v0 dm_control/walker-walk-v0 dm_control/cheetah-run-v0 "
        "dm_control/reacher-easy-v0 dm_control/humanoid-stand-v0 dm_control/manipulator-bring_ball-v0",
    ),
}
# What people still ask for.
FORMER = (
    "HalfCheetah-v1",
    "Pendulum-v0",
    "LunarLanderContinuous-v2",
    "BipedalWalker-v2",
    "CarRacing-v2",
    "FetchReach-v4",
)


def ids() -> dict[str, str]:
    """Every id to try, and the package it belongs to."""
    found = {name: "gymnasium" for name in sorted(gymnasium.registry) if not name.startswith("GymV")}
    found |= dict.fromkeys(FORMER, "gymnasium")
    for module, (package, names) in OTHERS.items():
        if util.find_spec(module) is not None:
            found |= {f"{module}:{name}": package for name in names.split()}
    return found


def trained(name: str) -> dict[str, object]:
    """Train ``name`` as a user would; says whether it did, or in which words it was refused."""
    messages, start = io.StringIO(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        overrides = [f"general.logdir={folder}", f"env.id={name}", *SIZES.split()]
        with contextlib.redirect_stderr(messages), contextlib.redirect_stdout(io.StringIO()):
            code = pwm(["train", *overrides])
        files = list(Path(folder).glob("*/*/*/status.json"))
        states = [json.loads(path.read_text())["state"] for path in files]
        policies = [path.parent / "final_policy.pt" for path in files]
        spec = torch.load(policies[0], weights_only=True)["spec"] if code == 0 else {}
    said = [
        line.removeprefix("pwm: ") for line in messages.getvalue().splitlines() if line.startswith("pwm: ")
    ]
    errors = [line for line in said if not line.startswith("warning")]
    known = {0: "trains", 2: "refused"}
    return {
        "id": name,
        "result": known.get(code, f"exit code {code}") if states in ([], ["finished"]) else f"{states}",
        "obs_dim": spec.get("obs_dim", ""),
        "act_dim": spec.get("act_dim", ""),
        "seconds": f"{time.perf_counter() - start:.1f}",
        "message": " | ".join(errors),
    }


def main() -> None:
    """Try the ids and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ids", nargs="*", metavar="ID", help="default: all; only all of them are written")
    chosen = parser.parse_args().ids
    packages = ids()
    # Pictures of runs take longer than these runs, and packages greet in many words.
    TrainingVisualizer.generate_all_plots = lambda self: []  # type: ignore[method-assign]
    logging.disable(logging.WARNING)
    rows = []
    for name in chosen or packages:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            package = packages.get(name, "gymnasium")
            rows.append(trained(name) | {"package": f"{package} {metadata.version(package)}"})
        print(f"{rows[-1]['result']:8} {name}  {rows[-1]['message']}", flush=True)
    trains = sum(row["result"] == "trains" for row in rows)
    mujoco = metadata.version("mujoco")
    print(f"{len(rows)} ids: {trains} train, {len(rows) - trains} are refused; mujoco {mujoco}")
    if not chosen:
        text = io.StringIO()
        writer = csv.DictWriter(text, [*rows[0], "mujoco"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"mujoco": mujoco} for row in rows)
        write_text(RESULT, text.getvalue())


if __name__ == "__main__":
    main()
