"""Ids of environments: which to use instead, what tasks are called, and the modules that register them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest
import torch

from pwm.envs import gym
from pwm.errors import EnvError


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("HalfCheetah-v3", r"use env\.id=HalfCheetah-v5$"),
        ("Hopper-v2", r"use env\.id=Hopper-v5$"),
        ("Pusher-v4", r"use env\.id=Pusher-v5$"),
        ("Humanoid-v1", r"use env\.id=Humanoid-v5$"),
        ("Pendulum-v0", r"use env\.id=Pendulum-v1$"),
        ("MountainCarContinuous-v9", r"Close matches: MountainCarContinuous-v0"),
        ("FetchReach-v4", r"gymnasium_robotics:FetchReach-v4"),
        ("dm_control/cartpole-swingup-v0", r"shimmy:dm_control/cartpole-swingup-v0"),
        (
            "no_such_module:Thing-v0",
            r"no module 'no_such_module'.*working directory.*pip install no-such-module$",
        ),
        ("no_such.part:Thing-v0", r"no module 'no_such'"),
        ("json:Thing-v0", r"Environment `Thing` doesn't exist"),
        ("json.py:Thing-v0", r"without \.py, env\.id=json:Thing-v0,"),
        ("a:b:C-v0", r"write module:Id"),
        (":C-v0", r"write module:Id"),
        ("not an id", r"not an id"),
    ],
)
def test_ids_that_cannot_be_made_say_which_to_use(name: str, words: str, mode: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(EnvError, match=words) as caught:
            gym.build(gym.Options(name, vectorization=mode), 1, "cpu", 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("Pendulum-v1", "gym_Pendulum-v1"),
        ("lab/Point-v0", "gym_lab_Point-v0"),
        ("my_env:Point-v0", "gym_my_env-Point-v0"),
        ("other_env:Point-v0", "gym_other_env-Point-v0"),
        ("my.package.envs:lab/Point-v0", "gym_my.package.envs-lab_Point-v0"),
        ("shimmy:dm_control/walker-walk-v0", "gym_shimmy-dm_control_walker-walk-v0"),
    ],
)
def test_task_names_are_fit_for_folders(name: str, task: str) -> None:
    assert gym.Options(name).task_name == task


@pytest.fixture
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for modules, of which nothing is left."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = dict(gymnasium.registry)
    yield tmp_path
    gymnasium.registry.clear()
    gymnasium.registry.update(known)
    for module in tmp_path.glob("*.py"):
        sys.modules.pop(module.stem, None)


@pytest.mark.filterwarnings("ignore:.*Overriding environment")
def test_every_module_has_its_own_environment_of_an_id(working_directory: Path, mode: str) -> None:
    for number, module in enumerate(("first", "second")):
        (working_directory / f"{module}_points.py").write_text(
            "import gymnasium\nfrom tests.contracts.odd_envs import Constant\n"
            "def point(render_mode=None):\n"
            f"    return Constant([{number}.0, 0.0, 0.0])\n"
            "gymnasium.register('OddPoint-v0', point, max_episode_steps=9)\n"
        )
    for number, module in ((0, "first"), (1, "second"), (0, "first"), (1, "second")):
        env = gym.build(gym.Options(f"{module}_points:OddPoint-v0", vectorization=mode), 2, "cpu", 0)
        assert env.spec.name == f"gym_{module}_points-OddPoint-v0"
        assert env.reset()[:, 0].tolist() == [number, number]
        env.close()


@pytest.mark.filterwarnings("ignore:.*Overriding environment")
def test_a_module_that_another_one_imports_keeps_its_environment(working_directory: Path, mode: str) -> None:
    code = (
        "import gymnasium\nfrom tests.contracts.odd_envs import Constant\n"
        "def point(render_mode=None):\n    return Constant([{}, 0.0, 0.0])\n"
        "gymnasium.register('OddPoint-v0', point, max_episode_steps=9)\n"
    )
    (working_directory / "plain_points.py").write_text(code.format(0.0))
    (working_directory / "other_points.py").write_text("import plain_points\n" + code.format(1.0))
    for module, shown in (("other", 1.0), ("plain", 0.0), ("other", 1.0)):
        env = gym.build(gym.Options(f"{module}_points:OddPoint-v0", vectorization=mode), 2, "cpu", 0)
        assert env.reset()[:, 0].tolist() == [shown, shown]
        env.close()


@pytest.mark.parametrize("package", ["a_kit", "z_kit"])
def test_what_a_module_lacks_is_not_taken_for_the_module(package: str, working_directory: Path) -> None:
    (working_directory / "lacking_points.py").write_text(f"import {package}\n")
    words = f"importing lacking_points needs a missing package: .*pip install {package[0]}-kit$"
    with pytest.raises(EnvError, match=words):
        gym.build(gym.Options("lacking_points:Thing-v0"), 1, "cpu", 0)


@pytest.mark.parametrize(
    "drawn",
    ["random.random()", "np.random.random()", "np.random.default_rng().random()", "Random().random()"],
)
def test_what_a_module_draws_is_seeded(drawn: str, working_directory: Path) -> None:
    (working_directory / "drawing_points.py").write_text(
        "import random\nfrom random import Random\nimport gymnasium\nimport numpy as np\n"
        "from tests.contracts.odd_envs import Constant\n"
        f"DRAWN = {drawn}\n"
        "def point(render_mode=None):\n"
        "    return Constant([DRAWN, np.random.random(), 0.0])\n"
        "gymnasium.register('OddPoint-v0', point, max_episode_steps=9)\n"
    )
    found = {}
    for mode, seed in (("sync", 1), ("async", 1), ("sync", 2)):
        sys.modules.pop("drawing_points", None)
        gymnasium.registry.pop("OddPoint-v0", None)
        env = gym.build(gym.Options("drawing_points:OddPoint-v0", vectorization=mode), 2, "cpu", seed)
        found[mode, seed] = env.reset()
        env.close()
    assert torch.equal(found["sync", 1], found["async", 1])
    assert not torch.equal(found["sync", 1][:, 0], found["sync", 2][:, 0])
