"""Train MLP, residual and flow dynamics on small tasks over several seeds and keep the results as data.

    make cpu-suite                                              all tasks, all seeds (hours)
    make cpu-suite ARGS="--tasks dflex_hopper --seeds 1"        a part (minutes)
    make cpu-suite ARGS="--ablations --tasks dflex_hopper"      one change at a time to pwm_small_h16_flow

Every run is a plain ``pwm train`` on one CPU thread, as many at a time as the machine has cores.
Interrupted runs continue, finished ones are not repeated. Results are merged into ``results/cpu_suite`` (or
``results/ablations``): ``runs.csv`` (one row per run), ``curves/`` (its evaluations), ``summary.csv`` and
``equal_budgets.csv``. The last two and the pictures show the runs of ``model_free.py`` beside those of the
suite.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from equal_budgets import at_equal_budgets
from numpy.typing import NDArray
from plot_study import Curves, load, plot_study
from scipy import stats
from study_files import CURVE, csv_text, load_rows, merge

from pwm.analysis.tables.records import load_records, load_reference
from pwm.checkpoints.policy_evaluation import HELD_OUT_SEED, evaluate_policy
from pwm.envs.engines.mujoco_cpu import usable_cores
from pwm.files import write_text

RESULTS = Path(__file__).parents[1] / "results"
# Epochs and overrides of every task.
TASKS: dict[str, tuple[int, tuple[str, ...]]] = {
    "gym_Pendulum-v1": (150, ("env=gym", "env.id=Pendulum-v1")),
    "gym_Reacher-v5": (150, ("env=gym", "env.id=Reacher-v5")),
    "gym_HalfCheetah-v5": (1000, ("env=gym", "env.id=HalfCheetah-v5")),
    "dflex_cartpole": (250, ("env=dflex_cartpole", "env.num_threads=1")),
    "dflex_hopper": (1000, ("env=dflex_hopper", "env.num_threads=1")),
    "dflex_ant": (500, ("env=dflex_ant", "env.num_threads=1")),
}
ALGORITHMS: dict[str, tuple[str, ...]] = {
    name: (f"alg={name}",) for name in ("pwm_small_h16", "pwm_small_h16_residual", "pwm_small_h16_flow")
}
FLOW = "pwm_small_h16_flow"
ABLATIONS: dict[str, tuple[str, ...]] = {
    name: (f"alg={FLOW}", *overrides)
    for name, overrides in {
        FLOW: (),
        # What equal weights are for latents that sum to 1: the loss grows with the square of the scale.
        "equal_loss_weights": ("alg.dynamics_coef=0.015625",),
        "unscaled_latents": ("alg.simnorm_scale=1", "alg.dynamics_coef=1024"),
        "fast_encoder": ("alg.encoder_lr_scale=1",),
        "unit_output_gain": ("alg.dynamics.output_gain=1",),
        "no_warm_up": ("alg.warmup_env_steps=0", "alg.warmup_updates=0"),
        "no_termination_predictor": ("alg.predict_termination=false",),
        "no_target_critic": ("alg.target_rate=1",),
        "slow_target_critic": ("alg.target_rate=0.02",),
        "no_value_scale": ("alg.value_rms=false",),
        "no_saturation_penalty": ("alg.saturation_coef=0",),
        "no_replay_starts": ("alg.replay_starts=0",),
        "no_open_loop": ("alg.open_loop_share=0",),
        "uniform_replay": ("alg.replay_recency=1",),
        "no_open_loop_uniform_replay": ("alg.open_loop_share=0", "alg.replay_recency=1"),
        "discount_0.99": ("alg.gamma=0.99",),
        "constant_lr": ("alg.lr_schedule=constant",),
        "late_decay": ("alg.lr_decay_start=0.5",),
        "lockstep": (
            "alg.collect=lockstep",
            "alg.actor_iterations=1",
            "alg.replay_starts=0",
            "alg.open_loop_share=0",
        ),
        "teacher_source": ("alg.flow_source=teacher",),
        "tangent_head": ("alg.velocity_head=tangent",),
        "simnorm_head": ("alg.velocity_head=simnorm",),
        "midpoint_tau": ("alg.flow_tau_sampling=midpoint",),
        "nodes_tau": ("alg.flow_tau_sampling=nodes",),
        "heun_1": ("alg.flow_integrator=heun",),
        "rk4_1": ("alg.flow_integrator=rk4",),
        "heun_2": ("alg.flow_integrator=heun", "alg.flow_substeps=2"),
        "euler_4": ("alg.flow_substeps=4",),
        # What might have been part of the recipe.
        "no_average": ("alg.actor_average=1",),
        "two_hot_rewards": ("alg.reward_head.name=two_hot",),
        "light_two_hot_rewards": ("alg.reward_head.name=two_hot", "alg.reward_coef=0.1"),
        "fine_two_hot_rewards": (
            "alg.reward_head.name=two_hot",
            "alg.reward_head.vmin=-3",
            "alg.reward_head.vmax=3",
        ),
        "slow_actor": ("alg.actor_lr=1e-4",),
        "fast_actor": ("alg.actor_lr=1e-3",),
        "no_entropy_floor": ("alg.actor.min_log_std=-5",),
        "twice_the_model_updates": ("alg.wm_iterations=16",),
        "many_envs": ("alg.num_envs=128",),
    }.items()
}
# Folder of the results of ``model_free.py``, which the suite shows beside its own.
BASELINES = "model_free"
STUDIES = {"cpu_suite": ALGORITHMS, "ablations": ABLATIONS}
SEEDS = (1, 2, 3)
EVALUATIONS = 50
HELD_OUT_EPISODES = 64
# Phases of a run that only look at it.
MEASURING = ("eval", "gradients")


@dataclass(frozen=True)
class Run:
    """One cell of the suite."""

    study: str
    task: str
    algorithm: str
    seed: int

    @property
    def name(self) -> str:
        """Name of its curve file."""
        return f"{self.task}_{self.algorithm}_seed{self.seed}"

    def arguments(self, logdir: Path) -> list[str]:
        """Arguments of ``pwm``."""
        epochs, overrides = TASKS[self.task]
        return [
            "train",
            *STUDIES[self.study][self.algorithm],
            f"general.name={self.algorithm}",
            *overrides,
            f"general.epochs={epochs}",
            f"general.seed={self.seed}",
            "general.threads=1",
            f"general.eval_every={epochs // EVALUATIONS}",
            "general.progress=false",
            f"general.logdir={logdir / self.study}",
        ]

    def folder(self, logdir: Path) -> Path:
        """Its run folder."""
        return logdir / self.study / self.task / self.algorithm / f"seed{self.seed}"


def execute(run: Run, logdir: Path) -> dict[str, Any]:
    """Train (or continue, or recognise as finished) and return the row of ``runs.csv``.

    Raises:
        RuntimeError: the training command failed; the message ends with its last output.
    """
    arguments = run.arguments(logdir)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pwm.launch.cli", *arguments], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{run.name}: {(done.stderr or done.stdout).strip()[-2000:]}")
    folder = run.folder(logdir)
    return row(run, folder, "pwm " + shlex.join(a for a in arguments if "logdir" not in a))


def row(run: Run, folder: Path, command: str) -> dict[str, Any]:
    """Everything worth keeping of a finished run; also writes its curve."""
    evaluated = write_curve(run, folder)
    returns = [r["eval/episode_return"] for r in evaluated]
    manifest = json.loads((folder / "manifest.json").read_text())
    held_out = {
        which: evaluate_policy(folder / f"{which}_policy.pt", HELD_OUT_EPISODES, HELD_OUT_SEED, "cpu", None)
        for which in ("best", "final")
    }
    return {
        "task": run.task,
        "algorithm": run.algorithm,
        "seed": run.seed,
        "env_steps": int(evaluated[-1]["env_steps"]),
        "wall_time": round(evaluated[-1]["wall_time"], 1),
        "world_model_parameters": manifest["parameters"]["world_model"],
        "peak": round(max(returns), 2),
        "final": round(returns[-1], 2),
        "last10": round(float(np.mean(returns[-10:])), 2),
        "held_out_best": round(held_out["best"]["mean"], 2),
        "held_out_final": round(held_out["final"]["mean"], 2),
        **{key: round(value, 2) for key, value in load_reference(folder).items()},
        "commit": manifest["git_commit"],
        "command": command,
        "machine": f"{manifest['device']}, 1 thread",
    }


def write_curve(run: Run, folder: Path) -> list[dict[str, float]]:
    """Write ``CURVE`` of the epochs that were evaluated, empty where not recorded; returns their records."""
    records, measuring = load_records(folder), 0.0
    for r in records:
        measuring += sum(r.get(f"time/{phase}", 0.0) for phase in MEASURING)
        r["train_time"] = r["wall_time"] - measuring
    evaluated = [r for r in records if "eval/episode_return" in r]
    write_text(RESULTS / run.study / "curves" / f"{run.name}.csv", csv_text(CURVE, evaluated))
    return evaluated


def summarise(
    rows: Sequence[dict[str, Any]], curves: Curves, algorithms: Iterable[str]
) -> list[dict[str, Any]]:
    """Per task and algorithm: medians over seeds, what was kept, and flow minus it with a bootstrap interval.

    ``retention`` is the last-10 mean as a share of the peak, both measured from the zero-action or the
    random-action score, whichever is lower, because returns can be negative. ``gain_retention`` is the same
    from the higher of the two: the share of what learning gained. ``worst_drawdown`` is the largest drop
    from the best return so far, once that is above the higher score, as a share of the final gain; more
    than 1 is a fall below it. The worst seed is given; empty where a seed gained nothing.
    """
    table = []
    for task in sorted({r["task"] for r in rows}):
        arms = {a: [r for r in rows if r["task"] == task and r["algorithm"] == a] for a in algorithms}
        flow = [float(r["last10"]) for r in arms[FLOW]]
        for algorithm, arm in arms.items():
            if not arm:
                continue
            last = [float(r["last10"]) for r in arm]
            retained, gained = [_retention(r, min) for r in arm], [_retention(r, max) for r in arm]
            returns = [curve["eval/episode_return"] for curve in curves[task, algorithm]]
            dropped = [drawdown(r, max(_floors(row))) for r, row in zip(returns, arm, strict=True)]
            low, high = _difference_interval(flow, last)
            table.append(
                {
                    "task": task,
                    "algorithm": algorithm,
                    "seeds": len(arm),
                    "median_peak": np.median([float(r["peak"]) for r in arm]).round(1),
                    "median_last10": np.median(last).round(1),
                    "median_held_out_final": np.median([float(r["held_out_final"]) for r in arm]).round(1),
                    "zero_action": arm[0]["zero_action"],
                    "random_action": arm[0]["random_action"],
                    "median_retention": _rounded(np.median(retained)),
                    "worst_retention": _rounded(np.min(retained)),
                    "median_gain_retention": _rounded(np.median(gained)),
                    "worst_gain_retention": _rounded(np.min(gained)),
                    "worst_drawdown": _rounded(np.max(dropped)),
                    "median_minutes": round(float(np.median([float(r["wall_time"]) for r in arm])) / 60, 1),
                    "flow_minus_this_low95": low,
                    "flow_minus_this_high95": high,
                }
            )
    return table


def _floors(r: dict[str, Any]) -> tuple[float, float]:
    return float(r["zero_action"]), float(r["random_action"])


def _retention(r: dict[str, Any], choose: Callable[[tuple[float, float]], float]) -> float:
    """Last-10 mean over peak, both from the chosen floor; NaN where the peak is not above it."""
    floor = choose(_floors(r))
    gain = float(r["peak"]) - floor
    return (float(r["last10"]) - floor) / gain if gain > 0 else math.nan


def drawdown(returns: NDArray[np.float64], floor: float) -> float:
    """Largest drop [share of the final peak's gain over ``floor``] from a running peak above ``floor``.

    NaN if there is no such peak.
    """
    peak = np.maximum.accumulate(returns)
    gain = peak[-1] - floor
    return float(((peak - returns) * (peak > floor)).max() / gain) if gain > 0 else math.nan


def _rounded(value: float) -> float | str:
    """Three decimals; empty for NaN."""
    return "" if math.isnan(value) else round(float(value), 3)


def _difference_interval(a: list[float], b: list[float]) -> tuple[float | str, float | str]:
    """95 % bootstrap interval of mean(a) - mean(b) over seeds; empty where there are fewer than two seeds."""
    if len(a) < 2 or len(b) < 2 or a == b:
        return "", ""
    found = stats.bootstrap(
        (np.array(a), np.array(b)),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return round(float(found.low), 1), round(float(found.high), 1)


def stored(study: str) -> tuple[list[dict[str, Any]], Curves, list[str]]:
    """Rows and curves of the study, those of the baselines beside the suite, and all their algorithms."""
    rows, curves = load(RESULTS / study)
    algorithms = list(STUDIES[study])
    if study == "cpu_suite" and load_rows(RESULTS / BASELINES):
        others, more = load(RESULTS / BASELINES)
        rows, curves = rows + others, curves | more
        algorithms += sorted({r["algorithm"] for r in others})
    return rows, curves, algorithms


def report(study: str) -> str:
    """Write the tables and the pictures from the stored rows and curves; returns the summary."""
    rows, curves, algorithms = stored(study)
    table = summarise(rows, curves, algorithms)
    summary = csv_text(list(table[0]), table)
    write_text(RESULTS / study / "summary.csv", summary)
    budgets = at_equal_budgets(curves, algorithms)
    write_text(RESULTS / study / "equal_budgets.csv", csv_text(list(budgets[0]), budgets))
    plot_study(RESULTS / study, rows, curves, algorithms)
    return summary


def main() -> None:
    """Run the chosen part of the suite and print the summary of everything stored."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument(
        "--ablations", action="store_true", help="changes to pwm_small_h16_flow instead of the suite"
    )
    parser.add_argument("--algorithms", nargs="+", help="default: all of the study")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--jobs", type=int, default=usable_cores(), help="runs at the same time")
    parser.add_argument("--logdir", type=Path, default=Path("logs"))
    chosen = parser.parse_args()
    study = "ablations" if chosen.ablations else "cpu_suite"
    algorithms = chosen.algorithms or list(STUDIES[study])
    if unknown := set(algorithms) - set(STUDIES[study]):
        parser.error(f"unknown algorithms {sorted(unknown)}; choose from {', '.join(STUDIES[study])}")
    # Seeds outermost: after an interruption every task and algorithm has been seen equally often.
    runs = [Run(study, t, a, s) for s in chosen.seeds for t in chosen.tasks for a in algorithms]
    failed = 0
    with ThreadPoolExecutor(chosen.jobs) as pool:
        futures = {pool.submit(execute, run, chosen.logdir): run for run in runs}
        for number, future in enumerate(as_completed(futures), 1):
            run = futures[future]
            try:
                new = future.result()
            except RuntimeError as error:
                failed += 1
                print(f"[{number}/{len(runs)}] FAILED {error}", flush=True)
                continue
            merge(RESULTS / study, new)
            print(
                f"[{number}/{len(runs)}] {run.name}: peak {new['peak']}, last 10 {new['last10']}, "
                f"{new['wall_time'] / 60:.1f} min",
                flush=True,
            )
    if load_rows(RESULTS / study):
        print(report(study))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
