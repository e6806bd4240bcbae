"""Environments of one's own, in a module of the working directory, through the commands."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest
import torch
from tests.end_to_end.tiny import metrics, only_run, overrides, status, weights

from pwm.analysis.plots.visualization import TrainingVisualizer
from pwm.launch.cli import main
from pwm.training.trainers.online import memory

MODULE = """
import gymnasium
import numpy as np
from gymnasium.spaces import Box
import helper_of_own_env


class Positions(Box):
    pass


class Point(gymnasium.Env):
    metadata = {"render_modes": []}
    observation_space = Positions(-np.inf, np.inf, (2,), np.float64)
    action_space = Box(-3.0, 0.9, (1,), np.float32)

    def __init__(self, pays="distance", scale=1.0, fails="", side=0, render_mode=None):
        self.pays, self.scale, self.fails, self.render_mode = pays, scale, fails, render_mode
        if fails == "constructor":
            raise ValueError("side must be at least 2")
        if side:
            self.observation_space = Box(0, 255, (side, side, 3), np.uint8)

    def observe(self):
        if self.observation_space.shape != (2,):
            return self.observation_space.sample()
        return self.x * (np.nan if self.fails == "observation" else 1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.steps = self.np_random.normal(size=2), 0
        return self.observe(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.steps += 1
        if self.fails == "step" and self.steps > 30:
            raise RuntimeError("the wheels came off")
        self.x = self.x + 0.1 * np.array([self.x[1], float(action[0])])
        reward = helper_of_own_env.distance(self.x) if self.pays == "distance" else 1.0
        return self.observe(), self.scale * reward, False, False, {"final_obs": self.steps}


gymnasium.register("own/Point-v0", entry_point="own_env:Point", max_episode_steps=40)
"""
HELPER = """
def distance(x):
    return -float(x @ x)
"""
OWN = ["env=gym", "env.id=own_env:own/Point-v0"]
TASK = "gym_own_env-own_Point-v0"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with a module that is on no path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    # Pictures of runs have tests of their own, and take longer than these runs.
    monkeypatch.setattr(TrainingVisualizer, "generate_all_plots", lambda self: [])
    (tmp_path / "own_env.py").write_text(MODULE)
    (tmp_path / "helper_of_own_env.py").write_text(HELPER)
    yield tmp_path
    gymnasium.registry.pop("own/Point-v0", None)
    for name in ("own_env", "helper_of_own_env"):
        sys.modules.pop(name, None)


def train(*changes: str) -> int:
    """``pwm train`` with tiny sizes; the environment's own limit is as long as theirs."""
    chosen = overrides(Path("logs"), *OWN, *changes)
    return main(
        ["train", *(override for override in chosen if not override.startswith("env.episode_length"))]
    )


def the_message(capsys: pytest.CaptureFixture[str]) -> str:
    """The only message of a failed command."""
    shown = capsys.readouterr().err
    assert shown.startswith("pwm: ")
    assert shown.count("\n") == 1
    return shown


def test_every_command_finds_the_module(capsys: pytest.CaptureFixture[str]) -> None:
    assert train() == 0
    assert train("general.name=elsewhere", "env.vectorization=async") == 0
    run = Path("logs", TASK, "pwm_small_h16", "seed42")
    # Copies meet the same numbers in one process and in several.
    assert [r["wm/loss"] for r in metrics(run)[1:]] == [
        r["wm/loss"] for r in metrics(Path("logs", TASK, "elsewhere", "seed42"))[1:]
    ]
    assert main(["evaluate", str(run), "--episodes", "3", "--task", TASK]) == 0
    assert re.search(rf"^{TASK} ", capsys.readouterr().out, re.MULTILINE)
    named = ["--task", TASK, "--algorithm", "pwm_small_h16", "elsewhere", "--seeds", "42"]
    assert main(["compare", *named, "--declared", "env.vectorization"]) == 0
    arms = ["--baseline", "pwm_small", "--candidate", "pwm_small_flow"]
    assert main(["parity", *arms, "--env", "gym", OWN[1]]) == 0
    own = ("env", "alg=", "general.logdir", "alg.dynamics")
    sizes = [change for change in overrides(Path("logs")) if not change.startswith(own)]
    planned = ["experiment=velocity_head", f"tasks=[gym {OWN[1]}]", "seeds=[1]", *sizes]
    assert main(["experiment", *planned, "alg=pwm_small_h16", "--dry-run"]) == 0
    assert f"{TASK} " in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["env.kwargs.fails=constructor"], r"ValueError: side must be at least 2 \(own_env\.py, line \d+\)"),
        (["env.kwargs.fials=constructor"], r"does not accept env\.kwargs=\{'fials': 'constructor'\}"),
        (
            ["env.kwargs.fails=observation"],
            r"observation of environment 0 at reset is not finite, entries \[0, 1\]",
        ),
        (["env.id=own_env:own/Pint-v0"], r"own/Point-v0"),
        (["env.id=own_evn:own/Point-v0"], r"no module 'own_evn'"),
        (["env.id=HalfCheetah-v3"], r"use env\.id=HalfCheetah-v5"),
        (["env.id=CartPole-v1"], r"discrete"),
        (["env.episode_length=1000000"], r"env\.episode_length=1000000: must be at most 100000"),
    ],
)
def test_refusals_are_one_message_and_leave_nothing(
    changes: list[str], words: str, mode: str, capfd: pytest.CaptureFixture[str]
) -> None:
    chosen = [*overrides(Path("logs"), *OWN, f"env.vectorization={mode}", *changes)]
    assert main(["train", *chosen]) == 2
    assert re.search(words, the_message(capfd))
    assert not Path("logs").exists()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_fault_in_training_ends_the_run_with_one_message(
    mode: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train("env.kwargs.fails=step", f"env.vectorization={mode}") == 2
    message = the_message(capfd)
    assert "own_env:own/Point-v0: step of environment 0 raised RuntimeError: the wheels came off" in message
    found = status(only_run(Path("logs")))
    assert found["state"] == "failed"
    assert "the wheels came off" in str(found["reason"])


@pytest.mark.parametrize("mistake", ["syntax", "missing package"])
def test_a_module_that_cannot_be_imported(
    mistake: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, words = {
        "syntax": ("def (:\n", r"importing own_env raised SyntaxError: invalid syntax .own_env\.py, line 1"),
        "missing package": (
            "import wheels_kit\n",
            r"importing own_env needs a missing package: .*pip install wheels-kit",
        ),
    }[mistake]
    (project / "own_env.py").write_text(code)
    assert train() == 2
    assert re.search(words, the_message(capsys))


def test_training_does_not_depend_on_the_size_of_rewards() -> None:
    # Powers of two change no digit of a number, so nothing at all may differ but the scale.
    learned = {}
    for exponent in (-20, 0, 20):
        name = f"scale{exponent + 20}"
        assert train(f"env.kwargs.scale={2.0**exponent}", f"general.name={name}", "general.eval_every=3") == 0
        run = Path("logs", TASK, name, "seed42")
        learned[exponent] = weights(run / "final_policy.pt"), metrics(run)[-1]
    reference, figures = learned[0]
    for exponent in (-20, 20):
        modules, found = learned[exponent]
        differing = [key for key in modules if not torch.equal(modules[key], reference[key])]
        assert sorted(differing) == ["reward_rms.mean", "reward_rms.var"]
        assert found["reward_scale"] == figures["reward_scale"] * 2.0**exponent
        assert found["eval/episode_return"] == pytest.approx(figures["eval/episode_return"] * 2.0**exponent)
        assert found["actor/imagined_return"] == figures["actor/imagined_return"]


@pytest.mark.parametrize("scale", [1.0, 0.0, 1e6, 1e-6])
def test_constant_rewards_train(scale: float) -> None:
    assert train("env.kwargs.pays=one", f"env.kwargs.scale={scale}", "general.epochs=2") == 0
    last = metrics(only_run(Path("logs")))[-1]
    assert last["reward_scale"] == pytest.approx(0.1 * scale if scale else 1.0)
    assert last["eval/episode_return"] == pytest.approx(40 * scale)
    assert last["train/reward"] == pytest.approx(scale)
    assert last["skipped_updates"] == 0


def test_small_returns_keep_their_digits(capfd: pytest.CaptureFixture[str]) -> None:
    assert (
        train("env.kwargs.scale=1e-7", "env.kwargs.pays=one", "general.epochs=1", "general.progress=true")
        == 0
    )
    shown = capfd.readouterr()
    assert "best evaluated return 4e-06 at epoch" in shown.out
    assert "eval 4e-06" in shown.err
    assert main(["evaluate", str(only_run(Path("logs"))), "--episodes", "2"]) == 0
    assert re.search(r" 4e-06 +0\.0 ", capfd.readouterr().out)


def test_pictures_say_what_memory_they_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ["env.kwargs.side=24", "general.epochs=1"]
    monkeypatch.setattr(memory, "available_memory", lambda device: 20_000_000_000)
    with pytest.warns(
        RuntimeWarning, match=r"has 1728 numbers of 4 bytes, so the replay buffer takes 13\.9 MB"
    ):
        assert train(*changes) == 0
    capsys.readouterr()
    assert train(*changes, "general.name=large", "alg.buffer_size=100000000") == 2
    message = the_message(capsys)
    assert re.search(
        r"alg\.buffer_size=100000000 does not fit into memory: .*takes 693\.\d GB.*20\.0 GB available",
        message,
    )
    assert re.search(r"alg\.buffer_size=2500000 fits", message)
    assert not Path("logs", TASK, "large").exists()
