"""Train a model-free agent of sbx on one of our tasks, as a baseline for the world models.

    pip install -e ".[baselines]" -c constraints.txt
    python benchmarks/model_free.py --algo sac --task HalfCheetah-v5 --minutes 20 --seed 1
    python benchmarks/model_free.py --algo crossq --task dflex_ant --minutes 20 --env-steps 100000 --seed 1

The agent has the hyper-parameters its library gives it, or a discount by ``--gamma``, and one environment,
built and seeded as ``pwm train`` does, with the same rewards, episode length and actions in [-1, 1]. The
whole process runs on one processor core, by default the least busy of those it may use; ``taskset -c 0
python ...`` chooses one. Policies are evaluated as those of ``pwm train`` are: real rewards, deterministic
actions, the same episodes.

Results have the columns of ``export_suite.py``, which shows them beside our runs. ``wall_time`` counts
everything from the start of training (compiling the agent's functions is part of it, building the
environments is not), as in ``metrics.jsonl``. ``train_time`` is the time that the core worked here, without
evaluations, so that runs may share a machine; ``core_share`` is its part of the elapsed time. Training ends
when ``--minutes`` of ``train_time`` and ``--env-steps`` are both spent. Every evaluation updates ``curves/``
in the folder of unfinished runs, by default ``logs/model_free``; a finished run is merged into
``results/cpu_suite``. A call whose result is there already does nothing, and one that was interrupted begins
anew. ``model_free_suite.py`` makes all runs of the suite.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from study_files import (
    CURVE,
    HELD_OUT_EPISODES,
    RESULTS,
    ROOT,
    csv_text,
    curve_path,
    figures,
    held_out_columns,
    load_rows,
    merge,
)
from torch import Tensor

from pwm.checkpoints.policy_evaluation import HELD_OUT_SEED
from pwm.configuration.building import build_env
from pwm.configuration.config import ExperimentConfig, compose_config
from pwm.envs.base import VectorEnv
from pwm.errors import ConfigError, PwmError
from pwm.files import write_text
from pwm.runs import reference
from pwm.runs.provenance import LIBRARIES, cpu_model, git_commit
from pwm.training.evaluation import EVAL_ENVS, EVALUATION_SEED, Evaluation, evaluate

ALGORITHMS = {"sac": "SAC", "tqc": "TQC", "crossq": "CrossQ", "ppo": "PPO"}
SUITE = RESULTS / "cpu_suite"
UNFINISHED = ROOT / "logs" / "model_free"
PACKAGES = (*LIBRARIES, "sbx-rl", "stable-baselines3", "jax", "flax", "optax")


@dataclass(frozen=True)
class Job:
    """One training run.

    Attributes:
        algorithm: key of ``ALGORITHMS``.
        task: environment preset such as ``dflex_hopper``, or a Gymnasium id.
        seed: seed of agent and environment.
        minutes: training time [min] to spend at least.
        env_steps: environment steps to take at least.
        eval_every: environment steps between evaluations; the untrained and the final policy are always
            evaluated.
        gamma: discount; None for that of the library.

    Raises:
        ConfigError: a number is not allowed, or nothing ends the run.
    """

    algorithm: str
    task: str
    seed: int
    minutes: float
    env_steps: int
    eval_every: int
    gamma: float | None = None

    def __post_init__(self) -> None:
        if self.minutes < 0 or self.env_steps < 0 or not self.minutes + self.env_steps > 0:
            raise ConfigError(
                f"--minutes {self.minutes:g} --env-steps {self.env_steps}: neither may be negative, one must "
                "be positive"
            )
        if self.eval_every < 1:
            raise ConfigError(f"--eval-every {self.eval_every}: it must be at least 1")
        if self.gamma is not None and not 0.0 <= self.gamma < 1.0:
            raise ConfigError(f"--gamma {self.gamma:g}: it must lie in [0, 1)")
        # The libraries seed NumPy's global stream, which takes 32 bits.
        if not 0 <= self.seed < 2**32:
            raise ConfigError(f"--seed {self.seed}: it must lie in [0, 2**32)")

    @property
    def arguments(self) -> list[str]:
        """Arguments of this script that make the run."""
        options = {
            "algo": self.algorithm,
            "task": self.task,
            "minutes": f"{self.minutes:g}",
            "env-steps": str(self.env_steps),
            "eval-every": str(self.eval_every),
            "seed": str(self.seed),
        }
        if self.gamma is not None:
            options["gamma"] = f"{self.gamma:g}"
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    @property
    def command(self) -> str:
        """The command that makes this run."""
        return shlex.join(["python", "benchmarks/model_free.py", *self.arguments])

    def config(self) -> ExperimentConfig:
        """Configuration of ``pwm train`` on this task, of which environment and evaluation are used.

        Raises:
            ConfigError: no such preset.
        """
        presets = resources.files("pwm.configs").joinpath("env").iterdir()
        if f"{self.task}.yaml" in {preset.name for preset in presets}:
            chosen = [f"env={self.task}"]
        else:
            chosen = ["env=gym", f"env.id={self.task}"]
        return compose_config([*chosen, f"general.seed={self.seed}"])


class Recorder:
    """Evaluates an agent while it learns, keeps its best policy and stores the curve.

    Args:
        job: the run.
        agent: an agent of sbx.
        env: environment for evaluation only.
        episodes: episodes per evaluation.
        curve: file of the curve.
    """

    def __init__(self, job: Job, agent: Any, env: VectorEnv, episodes: int, curve: Path) -> None:
        self.job, self.agent, self.env, self.episodes, self.curve = job, agent, env, episodes, curve
        self.records: list[dict[str, float]] = []
        self.best_policy: Any = None
        self._best = -np.inf
        self._started = clocks()
        self._measuring = np.zeros(2)

    def __call__(self, _locals: dict[str, Any], _globals: dict[str, Any]) -> bool:
        """Called by the agent after every environment step; whether training goes on."""
        steps = self.agent.num_timesteps
        if steps % self.job.eval_every == 0:
            self.measure()
        # On-policy agents stop for ``False`` itself only, not for NumPy's.
        return steps < self.job.env_steps or bool(self.training()[1] < 60.0 * self.job.minutes)

    def measure(self) -> None:
        """Evaluate the present policy, unless that was just done."""
        steps = self.agent.num_timesteps
        if self.records and self.records[-1]["env_steps"] == steps:
            return
        start = clocks()
        found = self.play(self.episodes, EVALUATION_SEED)
        if found.mean > self._best:
            # The library replaces parameters and never changes them in place: these stay as they are.
            self._best, self.best_policy = found.mean, self.agent.policy.actor_state
        end = clocks()
        self._measuring += end - start
        wall_time = (end - self._started)[0]
        train_time = (end - self._started - self._measuring)[1]
        self.records.append(
            {
                "env_steps": float(steps),
                "wall_time": wall_time,
                "train_time": train_time,
                "eval/episode_return": found.mean,
                "eval/episode_return_std": found.std,
                "eval/episode_length": found.mean_length,
            }
        )
        write_text(self.curve, csv_text(CURVE, self.records))
        print(f"{self.curve.stem}: {steps} steps, {train_time:.0f} s, {found.mean:.1f}", flush=True)

    def play(self, episodes: int, seed: int) -> Evaluation:
        """Evaluate the present policy."""
        return evaluate(self.env, deterministic(self.agent), episodes, seed)

    def training(self) -> NDArray[np.float64]:
        """Seconds spent so far without evaluations: elapsed, and of the processor."""
        return clocks() - self._started - self._measuring


def clocks() -> NDArray[np.float64]:
    """Elapsed time and processor time of this process [s]."""
    return np.array([time.monotonic(), time.process_time()])


def deterministic(agent: Any) -> Callable[[Tensor], Tensor]:
    """The deterministic policy of an agent of sbx, for ``evaluate``."""
    return lambda obs: torch.from_numpy(agent.predict(obs.numpy(), deterministic=True)[0])


def use_one_core() -> None:
    """Bind this process to one core: the least busy one, unless it was bound before.

    Call before JAX is imported, whose thread pools have the size it finds then.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) > 1:
        load = psutil.cpu_percent(interval=0.5, percpu=True)
        os.sched_setaffinity(0, {min(allowed, key=lambda core: load[core])})
    torch.set_num_threads(1)
    os.environ["JAX_PLATFORMS"] = "cpu"


def build_agent(job: Job, env: VectorEnv) -> Any:
    """The agent with the hyper-parameters of its library.

    Raises:
        ConfigError: the extra is not installed.
    """
    try:
        import sbx
        from vec_env_adapter import VecEnvAdapter
    except ImportError as error:
        raise ConfigError(
            f"model-free agents need the extra 'baselines' ({error}); install it with: "
            "pip install -e '.[baselines]' -c constraints.txt"
        ) from error
    own = {} if job.gamma is None else {"gamma": job.gamma}
    return getattr(sbx, ALGORITHMS[job.algorithm])("MlpPolicy", VecEnvAdapter(env), seed=job.seed, **own)


def run(job: Job, results: Path, unfinished: Path) -> dict[str, Any]:
    """Train and store the curve; returns the row of ``runs.csv``.

    Raises:
        PwmError: the task cannot be built, or the agent's actions are not finite.
    """
    config = job.config()
    device = torch.device("cpu")
    env = build_env(config, 1, job.seed, device)
    eval_env = build_env(config, min(EVAL_ENVS, config.general.eval_runs), EVALUATION_SEED, device)
    place = (env.spec.name, job.algorithm, job.seed)
    try:
        agent = build_agent(job, env)
        scores = reference.scores(config, eval_env)
        recorder = Recorder(job, agent, eval_env, config.general.eval_runs, curve_path(unfinished, *place))
        recorder.measure()
        agent.learn(sys.maxsize, callback=recorder)
        elapsed, working = recorder.training()
        recorder.measure()
        final = recorder.play(HELD_OUT_EPISODES, HELD_OUT_SEED)
        agent.policy.actor_state = recorder.best_policy
        best = recorder.play(HELD_OUT_EPISODES, HELD_OUT_SEED)
    finally:
        eval_env.close()
        env.close()
    write_text(curve_path(results, *place), csv_text(CURVE, recorder.records))
    return row(job, env.spec.name, recorder.records, scores) | {
        **held_out_columns("final", final.returns),
        **held_out_columns("best", best.returns),
        "core_share": round(working / elapsed, 3),
        "versions": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES),
    }


def row(
    job: Job, task: str, records: list[dict[str, float]], reference: Mapping[str, float]
) -> dict[str, Any]:
    """Columns of ``runs.csv`` that can be read from the curve of a run, and where it comes from."""
    return {
        "task": task,
        "algorithm": job.algorithm,
        "seed": job.seed,
        "world_model_parameters": 0,
        **figures(records, reference),
        "commit": git_commit(),
        "command": job.command,
        "hardware": f"{cpu_model()}, 1 thread",
    }


def finished(job: Job, results: Path) -> bool:
    """Whether the result of exactly this job is stored."""
    return any(row["command"] == job.command for row in load_rows(results))


def parse() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--algo", choices=ALGORITHMS, required=True)
    parser.add_argument("--task", required=True, help="environment preset or Gymnasium id")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--minutes", type=float, default=0.0, help="training time to spend, at least")
    parser.add_argument("--env-steps", type=int, default=0, help="environment steps to take, at least")
    parser.add_argument("--eval-every", type=int, default=2500, help="environment steps (default 2500)")
    parser.add_argument("--gamma", type=float, help="discount (default: the library's)")
    parser.add_argument("--results", type=Path, default=SUITE, help="where finished runs go")
    parser.add_argument("--unfinished", type=Path, default=UNFINISHED, help="curves of running runs")
    return parser.parse_args()


def main() -> None:
    """Train, unless the result is there already."""
    chosen = parse()
    try:
        budget = (chosen.minutes, chosen.env_steps, chosen.eval_every)
        job = Job(chosen.algo, chosen.task, chosen.seed, *budget, chosen.gamma)
        if finished(job, chosen.results):
            print(f"already finished: {job.command}")
            return
        use_one_core()
        new = run(job, chosen.results, chosen.unfinished)
    except PwmError as error:
        print(f"model_free: {error}", file=sys.stderr)
        sys.exit(2)
    merge(chosen.results, [new])
    print(f"{job.command}: peak {new['peak']}, last 10 {new['last10']}, held out {new['held_out_final']}")


if __name__ == "__main__":
    main()
