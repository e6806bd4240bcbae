"""An installation without extras: what works, and what names the extra that it needs."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.end_to_end.tiny import NETWORKS, overrides

ROOT = Path(__file__).resolve().parents[2]
RUN = "logs/gym_Pendulum-v1/pwm_small_h16/seed42"
PENDULUM = ["env=gym", "env.id=Pendulum-v1"]

# Arguments of `pwm`, one after the other in one process and one folder.
WORK = {
    "train": ["train", *overrides(Path("logs"), *PENDULUM)],
    "train a robot": [
        "train",
        *overrides(Path("logs"), "env=gym", "env.id=HalfCheetah-v5", "general.epochs=1"),
    ],
    "evaluate": ["evaluate", RUN, "--episodes", "2"],
    "diff": ["diff", RUN, RUN],
    "imagine": ["imagine", RUN],
    "diagnose": ["diagnose", RUN, "--episodes", "2"],
    "parity": ["parity", "--baseline", "pwm_5M", "--candidate", "pwm_5M_flow", "--env", "dflex_hopper"],
}
# What needs an extra, and the extra.
REFUSED = {
    "compare": (["compare", "--run-dirs", RUN, RUN, "--labels", "a", "b"], "report"),
    "experiment": (["experiment", "experiment=flow_vs_mlp", "env=dflex_hopper", "seeds=[1]"], "report"),
    "mp4": (["evaluate", RUN, "--video", "film.mp4"], "video"),
    "wandb": (["train", *overrides(Path("logs"), "general.run_wandb=true")], "wandb"),
    "dmc": (["train", *overrides(Path("logs"), "env=dmc")], "dmc"),
    "tensorboard": (["train", *overrides(Path("logs"), "general.tensorboard=true")], "tensorboard"),
}
CHILD = """
import contextlib, io, json, sys

hidden, work = set(json.loads(sys.argv[1])), json.loads(sys.argv[2])

class Without:
    '''A finder of modules that knows nothing of those that are hidden.'''

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
from pwm.analysis.plots.visualization import TrainingVisualizer
from pwm.launch.cli import main
import demo

tiny = dict(override.split("=", 1) for override in demo.COMMON + json.loads(sys.argv[3]))
demo.COMMON[:] = [f"{key}={value}" for key, value in tiny.items()]

def run(name, arguments):
    if name == "demo":
        sys.argv[1:] = arguments
        return demo.main() or 0
    return main(arguments)

draw_all = TrainingVisualizer.generate_all_plots
for name, arguments in work.items():
    # Drawn once: that takes longer than everything else here.
    TrainingVisualizer.generate_all_plots = draw_all if name == "train" else lambda self: []
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        code = run(name, arguments)
    print(json.dumps([name, code, said.getvalue()]), flush=True)
"""


def runtime_distributions() -> set[str]:
    """Names of everything that an installation without extras brings, on this machine."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    waiting = [Requirement(line) for line in project["dependencies"]]
    found: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        entry = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if entry in found:
            continue
        found.add(entry)
        for line in importlib.metadata.requires(requirement.name) or []:
            further = Requirement(line)
            extras = {"", *requirement.extras}
            if further.marker is None or any(further.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(further)
    return {name for name, _ in found}


def modules_of_extras() -> list[str]:
    """Top-level modules that are installed here, but would not be without extras."""
    runtime = runtime_distributions()
    return [
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & {*runtime, "flow-pwm"}
    ]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit code and output of every command."""
    hidden = modules_of_extras()
    assert {"scipy", "pandas", "rliable", "wandb", "pytest"} <= set(hidden)
    assert not {"torch", "mujoco", "gymnasium", "matplotlib"} & set(hidden)
    work = WORK | {name: arguments for name, (arguments, _) in REFUSED.items()}
    work["demo"] = ["--epochs", "1"]
    tiny = [*NETWORKS, "alg.warmup_env_steps=1000", "alg.warmup_updates=2", "env.episode_length=20"]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(hidden), json.dumps(work), json.dumps(tiny)],
        cwd=tmp_path_factory.mktemp("plain"),
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT / "examples")])},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    return {name: (code, said) for name, code, said in lines}


@pytest.mark.parametrize("name", [*WORK, "demo"])
def test_works_without_extras(name: str, outcomes: dict[str, tuple[int, str]]) -> None:
    code, said = outcomes[name]
    assert code == 0, said


def test_the_demo_ends_with_a_table(outcomes: dict[str, tuple[int, str]]) -> None:
    lines = outcomes["demo"][1].splitlines()
    assert any(line.startswith("1 of 2: MLP ") for line in lines)
    table = lines[lines.index(next(line for line in lines if line.startswith("dynamics "))) + 1 :]
    assert [line.split()[0] for line in table[:2]] == ["MLP", "flow"]
    assert table[-1].startswith("learning curves: ")


@pytest.mark.parametrize("name", REFUSED)
def test_names_the_extra_it_needs(name: str, outcomes: dict[str, tuple[int, str]]) -> None:
    code, said = outcomes[name]
    assert code == 2, said
    assert f'pip install "flow-pwm[{REFUSED[name][1]}]"' in said.splitlines()[-1]
