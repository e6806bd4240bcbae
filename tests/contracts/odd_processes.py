"""Environments that draw from generators of the process, have processes of their own or end the one here.

Importing registers ``Odd<Name>-v0``.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import subprocess
import time
from random import Random, gauss
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.random import default_rng
from tests.contracts.odd_envs import LENGTH, REALS, Observations, Odd


class Drawing(Odd):
    """Draws from generators that the whole process shares: in the constructor, in resets and in steps."""

    DRAWS = {
        "python": random.random,
        "python, imported": lambda: gauss(0, 1),
        "numpy": lambda: np.random.randn(),  # noqa: NPY002
        "numpy, choice": lambda: np.random.choice(1000),  # noqa: NPY002
        "torch": lambda: torch.randn(()).item(),
        "space of the class": lambda: float(REALS.sample()[0]),
    }

    def __init__(self, draw: str, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.draw = (
            self.DRAWS[draw] if draw != "space of the class" else lambda: self.observation_space.sample()[0]
        )
        self.size = 1.0 if draw == "space of the class" else self.draw()

    def observe(self) -> np.ndarray:
        return np.array([self.size, self.draw(), self.draw()])

    def ends(self) -> tuple[bool, bool]:
        return self.draw() > 0.9, False


class OwnRandom(Random):
    """A generator of one's own, made from Python's."""


class Reseeding(Odd):
    """Seeds generators with whatever it was given, which is nothing when an episode follows another."""

    SEEDS = {
        "python": lambda seed: random.seed(seed) or random.random(),
        "python, by name": lambda seed: random.seed(a=seed) or random.random(),
        "numpy": lambda seed: np.random.seed(seed) or np.random.random(),  # noqa: NPY002
        "numpy, new": lambda seed: np.random.default_rng(seed).random(),
        "numpy, by name": lambda seed: default_rng(seed).random(),
        "numpy, old": lambda seed: np.random.RandomState(seed).random_sample(),
        "numpy, by parts": lambda seed: np.random.Generator(np.random.PCG64(seed)).random(),
        "python, its own": lambda seed: random.Random(seed).random(),
        "python, subclass": lambda seed: OwnRandom(seed).random(),
        "gymnasium": lambda seed: spaces.Box(0.0, 1.0, (), seed=seed).sample(),
    }

    def __init__(self, kind: str, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.draw = self.SEEDS[kind]
        self.size = self.draw(None) + self.np_random.normal()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        self.goal = float(self.draw(seed))
        return super().reset(seed=seed)

    def observe(self) -> np.ndarray:
        return np.array([self.size, self.goal, self.np_random.random()])


class Simulator(Odd):
    """Has a process of its own, which it ends when it is closed, and shows the number of that process."""

    def __init__(self, kind: str, pause: float = 0.0, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.pause = pause
        if kind == "program":
            program = subprocess.Popen(["sleep", "60"])
            self.process, self.wait = program, program.wait
        else:
            fork = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            fork.start()
            self.process, self.wait = fork, fork.join

    def observe(self) -> np.ndarray:
        return np.array([self.process.pid, 0.0, 0.0])

    def reward(self, action: np.ndarray) -> float:
        time.sleep(self.pause)
        return 0.0

    def close(self) -> None:
        self.process.terminate()
        self.wait()


class Dying(Odd):
    """Takes its whole process along."""

    def ends(self) -> tuple[bool, bool]:
        os._exit(3) if self.steps == 2 else None
        return False, False


class Slow(Odd):
    """Takes ``seconds`` to close."""

    def __init__(self, seconds: float, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.seconds = seconds

    def close(self) -> None:
        time.sleep(self.seconds)


def own_box(render_mode: str | None = None) -> gymnasium.Env:
    """An environment whose space is of a class that no other process can find."""

    class Hidden(spaces.Box):
        pass

    return Observations(Hidden(-1.0, 1.0, (3,), np.float32), render_mode)


for _class in (Drawing, Reseeding, Simulator, Dying, Slow):
    gymnasium.register(f"Odd{_class.__name__}-v0", _class, max_episode_steps=LENGTH)
gymnasium.register("OddHidden-v0", own_box, max_episode_steps=LENGTH)
