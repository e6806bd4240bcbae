"""Commands that the documents show, as the tests run them: in order, in one folder, with tiny sizes.

Of a page, the ``sh`` blocks count. Comments of HTML directly above a block, which readers do not see, say
what a test must know:

``<!-- not run: REASON -->`` the block cannot run in a test.
``<!-- given: COMMAND -->`` is run before it, because the reader has done so, too; one line for each.
``<!-- exit code: N -->`` the last command of the block ends with N instead of 0.
"""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tests.unit.foreign_checkpoints import network

from pwm.analysis.plots.visualization import TrainingVisualizer
from pwm.launch.cli import main

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(?P<notes>(?:^<!-- [^\n]* -->\n)*)^```sh\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
NOTE = re.compile(r"^<!-- (not run|given|exit code): (.*) -->$", re.MULTILINE)
# What a checkout holds that commands read.
CHECKOUT = ("scripts", "benchmarks", "examples", "results", "src")
# A run of a second: in place of what a command says of these keys. The others keep what the reader types.
ONLINE = {
    "general.epochs": "2",
    "general.eval_every": "1",
    "general.eval_runs": "2",
    "general.esnr_every": "0",
    "alg.num_envs": "4",
    "alg.wm_batch_size": "8",
    "alg.wm_iterations": "2",
    "alg.critic_iterations": "2",
    "alg.warmup_env_steps": "200",
    "alg.warmup_updates": "2",
}
# Widths of the presets that are not small by themselves.
NARROW = {
    "alg.latent_dim": "16",
    "alg.encoder_units": "[16]",
    "alg.reward_units": "[16]",
    "alg.critic_units": "[16]",
    "alg.dynamics.units": "[16]",
    "alg.actor.units": "[16]",
}
PRETRAINED = {"general.pretrain_steps": "2"}
OFFLINE = {"general.epochs": "1", "general.eval_every": "1", "general.eval_runs": "1"}
PRETRAINING = {**OFFLINE, "alg.wm_iterations": "2", "alg.wm_batch_size": "8"}
# A model of two updates fits nothing.
EXTRACTION = {
    **OFFLINE,
    "alg.actor_iterations": "1",
    "alg.actor_batch_size": "16",
    "alg.max_model_error": "1000",
}
# Two arms and two seeds, which the statistics need.
STUDY = {**ONLINE, "seeds": "[42,123]", "arms.residual": "null"}
COLLECTION = {"episodes": "2", "envs": "2"}


# The environment that docs/environments.md leaves to the reader.
OWN_ENVIRONMENT = """
import gymnasium
import numpy


class Point(gymnasium.Env):
    def __init__(self, size=2):
        self.observation_space = gymnasium.spaces.Box(-numpy.inf, numpy.inf, (size,))
        self.action_space = gymnasium.spaces.Box(-1, 1, (size,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.normal(size=self.action_space.shape)
        return self.place.astype("float32"), {}

    def step(self, action):
        self.place = self.place + 0.1 * action
        return self.place.astype("float32"), -float(self.place @ self.place), False, False, {}


gymnasium.register("Point-v0", entry_point="my_env:Point", max_episode_steps=200)
"""


@dataclass(frozen=True)
class Block:
    """Commands that stand together, and what is to be known of them."""

    commands: list[str]
    not_run: str | None
    given: list[str]
    exit_code: int

    @classmethod
    def read(cls, found: re.Match[str]) -> Block:
        """Return the block of one match of ``BLOCK``."""
        notes = NOTE.findall(found["notes"])
        reasons = [text for kind, text in notes if kind == "not run"]
        codes = [int(text) for kind, text in notes if kind == "exit code"]
        lines = re.sub(r"\\\n\s*", "", found["code"]).splitlines()
        return cls(
            [line for line in lines if shlex.split(line, comments=True)],
            reasons[0] if reasons else None,
            [text for kind, text in notes if kind == "given"],
            codes[0] if codes else 0,
        )


def blocks(page: Path) -> list[Block]:
    """Return the ``sh`` blocks of a page, in its order."""
    return [Block.read(found) for found in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def quick(words: list[str]) -> list[str]:
    """Return a command with the sizes of a test in place of its own."""
    if words[:2] == ["pwm", "board"]:
        # A server would run until somebody ends it.
        return words if "--write" in words else [*words, "--write", "board"]
    if words[:2] == ["pwm", "submit"] or words[0].endswith(".sh") or "launch=slurm" in words:
        return words if "--dry-run" in words else [*words, "--dry-run"]
    if words[:2] == ["pwm", "experiment"] and "--report-only" not in words:
        return [*_with(words, STUDY), "--episodes", "2"]
    if words[:2] in (["pwm", "train"], ["python", "scripts/train_dflex.py"]):
        # A given model has its widths, and the small presets have observations as latents.
        wide = not any(word.startswith(("alg=pwm_small", "general.checkpoint=")) for word in words)
        begins = any(word.startswith("general.pretrain=") for word in words)
        return _with(words, ONLINE | (NARROW if wide else {}) | (PRETRAINED if begins else {}))
    if words[:2] == ["pwm", "pretrain"]:
        return _with(words, PRETRAINING)
    if words[:2] == ["pwm", "extract"]:
        return [*_with(words, EXTRACTION), "--episodes", "2"]
    if words[:3] == ["pwm", "data", "collect"]:
        return _with(words, COLLECTION)
    if "--episodes" in words:
        words = [*words]
        words[words.index("--episodes") + 1] = "2"
    elif words[:2] in (["pwm", "evaluate"], ["pwm", "diagnose"], ["pwm", "imagine"]):
        words = [*words, "--episodes", "2"]
    return words


def _with(words: list[str], changes: dict[str, str]) -> list[str]:
    kept = [word for word in words if word.partition("=")[0] not in changes]
    return [*kept, *(f"{key}={value}" for key, value in changes.items())]


def run(line: str) -> int:
    """Run one documented command in the working folder; returns its exit code."""
    words = quick(shlex.split(line, comments=True))
    if words[0] == "pwm":
        return main(words[1:])
    with pytest.MonkeyPatch.context() as patch:
        if words[0] == "python":
            patch.setattr(sys, "argv", words[1:])
            try:
                runpy.run_path(words[1], run_name="__main__")
            except SystemExit as ended:
                return int(ended.code or 0)
            return 0
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
        return subprocess.run(words, check=False).returncode


def make_workplace(folder: Path) -> None:
    """Make ``folder`` look like a checkout, with what readers bring along: a module, and a model of PWM."""
    for name in CHECKOUT:
        (folder / name).symlink_to(ROOT / name)
    (folder / "my_env.py").write_text(OWN_ENVIRONMENT, encoding="utf-8")
    generator = torch.Generator().manual_seed(0)
    widths = {"_encoder": [11, 256, 512], "_dynamics": [515, 512, 512, 512], "_reward": [515, 512, 512, 1]}
    state = {}
    for name, sizes in widths.items():
        state |= network(name, sizes, name != "_reward", generator)
    torch.save(state, folder / "final_policy.pt")


def without_pictures(patch: pytest.MonkeyPatch) -> None:
    """Let runs end without pictures, which take longer than they do."""
    patch.setattr(TrainingVisualizer, "generate_all_plots", lambda self: [])
