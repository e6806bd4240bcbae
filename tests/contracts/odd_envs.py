"""Small environments, legal and not, that trip careless adapters; importing registers ``Odd<Name>-v0``.

All of them end their episodes after ``LENGTH`` steps unless they say otherwise.
"""

from __future__ import annotations

import random
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

LENGTH = 12
UNIT = spaces.Box(-1.0, 1.0, (2,), np.float32)
REALS = spaces.Box(-np.inf, np.inf, (3,), np.float64)


class OwnSpace(spaces.Space):
    """A kind of space that Gymnasium does not know, and of which no two are equal."""

    def contains(self, x: Any) -> bool:
        return True


class Odd(gymnasium.Env):
    """Noise as observation, minus the squared action as reward; ``kwargs`` replace parts of it."""

    metadata = {"render_modes": []}
    observation_space: spaces.Space = REALS
    action_space: spaces.Space = UNIT

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def observe(self) -> Any:
        return self.np_random.normal(size=3)

    def reward(self, action: np.ndarray) -> Any:
        return -float(np.sum(np.square(action, dtype=np.float64)))

    def ends(self) -> tuple[Any, Any]:
        return False, False

    def info(self) -> dict[str, Any]:
        return {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self.observe(), self.info()

    def step(self, action: np.ndarray) -> tuple[Any, ...]:
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        self.steps += 1
        return self.observe(), self.reward(action), *self.ends(), self.info()


class Actions(Odd):
    """Any action space; the observation shows the action that arrived, as float64."""

    def __init__(self, space: spaces.Space, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.action_space = space
        self.observation_space = spaces.Box(-np.inf, np.inf, (int(np.prod(space.shape)),), np.float64)
        self.last = np.zeros(self.observation_space.shape)

    def observe(self) -> np.ndarray:
        return self.last

    def reward(self, action: np.ndarray) -> float:
        return 0.0

    def step(self, action: np.ndarray) -> tuple[Any, ...]:
        assert type(action) is np.ndarray
        assert action.dtype == self.action_space.dtype
        self.last = action.astype(np.float64).ravel()
        result = super().step(action)
        # The array is the environment's: what it does to it must reach nobody.
        action[...] = 0
        return result


class AnyAction(Odd):
    """Any action space, legal or not."""

    def __init__(self, space: spaces.Space, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.action_space = space


class Observations(Odd):
    """Any observation space, of which it shows samples."""

    def __init__(self, space: spaces.Space, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.observation_space = space

    def observe(self) -> Any:
        return self.observation_space.sample()


class Constant(Odd):
    """Shows ``value``, of which its space may know nothing."""

    def __init__(self, value: Any, space: spaces.Space = REALS, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.observation_space, self.value = space, value

    def observe(self) -> Any:
        return self.value


class Moving(Odd):
    """Shows ``values`` of the number of steps."""

    def __init__(self, values: Any, dtype: Any = np.float64, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.values = values
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), dtype)

    def observe(self) -> np.ndarray:
        return np.array(self.values(self.steps), dtype=self.observation_space.dtype)


class Rewards(Odd):
    """Pays what ``form`` makes of 0.5."""

    def __init__(self, form: Any, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.form = form

    def reward(self, action: np.ndarray) -> Any:
        return self.form(0.5)


class Scaled(Odd):
    """Pays ``scale`` times as much as another one."""

    def __init__(self, scale: float, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.scale = scale

    def reward(self, action: np.ndarray) -> float:
        return self.scale * super().reward(action)


class Infos(Odd):
    """Reports entries of every name, whose kind and length change."""

    def info(self) -> dict[str, Any]:
        length = int(self.np_random.integers(1, 5))
        value = [np.zeros(length), "text" * length, None, {"nested": length}, [1, 2][:length]][length % 5]
        names = ("final_obs", "_final_obs", "final_info", "_final_info", "episode", "contacts")
        return dict.fromkeys(names, value)


class Ends(Odd):
    """Ends every third step in the way that ``flags`` say, and shows the number of the step."""

    def __init__(self, flags: tuple[Any, Any], render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.flags = flags
        self.shown = np.zeros(3)

    def observe(self) -> np.ndarray:
        # Always the same array, as simulators do it.
        self.shown[:] = self.steps
        return self.shown

    def ends(self) -> tuple[Any, Any]:
        return self.flags if self.steps == 3 else (False, False)


class Judging(Odd):
    """Says of each episode whether it succeeded: as ``observation[0]`` tells from its reset on, at its end.

    Before its last step it says the opposite. Episodes last 3 to 6 steps.
    """

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.succeeds, self.length = bool(self.np_random.random() < 0.5), int(self.np_random.integers(3, 7))
        return self.observe(), {}

    def observe(self) -> np.ndarray:
        return np.array([getattr(self, "succeeds", 0.0), self.steps, self.np_random.normal()])

    def ends(self) -> tuple[bool, bool]:
        return self.steps >= self.length, False

    def info(self) -> dict[str, Any]:
        return {"is_success": self.succeeds == any(self.ends())} if hasattr(self, "length") else {}


class Limited(Odd):
    """Truncates itself after ``own`` steps, and may say so in an attribute."""

    def __init__(self, own: int = 7, attribute: str | None = None, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.own = own
        if attribute is not None:
            setattr(self, attribute, own)

    def ends(self) -> tuple[bool, bool]:
        return False, self.steps >= self.own


class ClassLimited(Limited):
    """States its limit in the class."""

    max_episode_steps = 7


class Unlimited(Odd):
    """States that it has no limit, as some do it."""

    max_episode_steps = 0
    _max_episode_steps = -1


class Inheriting(ClassLimited):
    """Inherits its limit from another class."""


class Telling(Limited):
    """States its limit in a property."""

    @property
    def _max_episode_steps(self) -> int:
        return self.own


class Late(Odd):
    """Has properties that cannot be told before a reset."""

    @property
    def max_episode_steps(self) -> int:
        return 7 // int(hasattr(self, "steps"))

    dt = max_episode_steps


class Timed(Odd):
    """States the seconds of a step."""

    def __init__(self, dt: Any, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.dt = dt


class Drawn(Odd):
    """Draws ``picture``, and from generators that the whole process shares."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, picture: Any, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.picture = picture

    def observe(self) -> np.ndarray:
        return super().observe() + np.random.random()  # noqa: NPY002

    def render(self) -> Any:
        np.random.random(), random.random()  # noqa: NPY002
        return self.picture


class Unpicklable(Exception):
    """Cannot be sent between processes."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")
        self.hold = lambda: None


ERRORS = {
    "text": ValueError("size must be\nat least 2"),
    "none": AssertionError(),
    "type": TypeError("unsupported operand"),
    "key": KeyError("speed"),
    "exit": SystemExit(0),
    "import": ImportError("cannot import name 'wheel'"),
    "gymnasium": gymnasium.error.Error("no wheels"),
    "missing module": ModuleNotFoundError("No module named 'wheels_kit'", name="wheels_kit"),
    "missing part": ModuleNotFoundError("No module named 'Box2D'", name="Box2D"),
    "unpicklable": Unpicklable("two", "words"),
}


class Faulty(Odd):
    """Raises one of ``ERRORS`` in the constructor, in a reset, in its third step or when it is closed."""

    def __init__(self, where: str, error: str, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.where, self.error = where, ERRORS[error]
        self._fail("constructor")

    def _fail(self, where: str) -> None:
        if self.where == where:
            raise self.error

    def observe(self) -> np.ndarray:
        self._fail("reset" if self.steps == 0 else "")
        self._fail("step" if self.steps == 3 else "")
        return super().observe()

    def close(self) -> None:
        self._fail("close")


class Changing(Odd):
    """Changes the list that it was given."""

    def __init__(self, goals: list[float], render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        goals.append(len(goals))
        self.goals = goals

    def observe(self) -> np.ndarray:
        return np.array([float(len(self.goals)), 0.0, 0.0])


class Returns(Odd):
    """Returns from ``reset`` or ``step`` what ``change`` makes of what it should."""

    def __init__(self, call: str, change: Any, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.call, self.change = call, change

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        result = super().reset(seed=seed)
        return self.change(*result) if self.call == "reset" else result

    def step(self, action: np.ndarray) -> Any:
        result = super().step(action)
        return self.change(*result) if self.call == "step" else result


def wrapped(limit: int, **kwargs: Any) -> gymnasium.Env:
    """An entry point that sets the time limit itself."""
    return TimeLimit(Odd(**kwargs), limit)


for _class in (
    Odd,
    Actions,
    AnyAction,
    Observations,
    Constant,
    Moving,
    Rewards,
    Scaled,
    Infos,
    Judging,
    Ends,
    Faulty,
    Returns,
    Changing,
    Late,
    Drawn,
    Timed,
):
    gymnasium.register(f"Odd{_class.__name__}-v0", _class, max_episode_steps=LENGTH)
gymnasium.register("OddLimited-v0", Limited)
gymnasium.register("OddClassLimited-v0", ClassLimited)
gymnasium.register("OddInheriting-v0", Inheriting)
gymnasium.register("OddTelling-v0", Telling)
gymnasium.register("OddUnlimited-v0", Unlimited)
gymnasium.register("OddEndless-v0", Odd)
gymnasium.register("OddWrapped-v0", wrapped, kwargs={"limit": 5})
gymnasium.register("OddHuge-v0", Odd, max_episode_steps=10**9)
