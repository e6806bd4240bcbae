"""Whatever an environment raises or draws at random: one sentence, one stream."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from tests.contracts.odd_envs import LENGTH
from tests.contracts.odd_processes import Drawing, Reseeding
from tests.contracts.odd_rollouts import N, make, rollout, same

from pwm.envs import gym
from pwm.envs.gym.random_streams import CopyStream, borrowed_globals
from pwm.errors import EnvError

# --- faults of the environment --------------------------------------------------------------------

SENTENCES = {
    "text": r"ValueError: size must be at least 2 \(odd_envs\.py, line \d+\)",
    "none": r"AssertionError \(odd_envs\.py, line \d+\)",
    "type": r"TypeError: unsupported operand \(odd_envs",
    "key": r"KeyError: 'speed'",
    "exit": r"SystemExit: 0",
    "import": r"ImportError: cannot import name 'wheel' \(odd_envs\.py, line \d+\)$",
    "gymnasium": r"Error: no wheels \(odd_envs\.py, line \d+\)$",
    "missing module": r"No module named 'wheels_kit'",
    "unpicklable": r"Unpicklable: two words",
}


@pytest.mark.parametrize("where", ["constructor", "reset", "step"])
@pytest.mark.parametrize("error", SENTENCES)
def test_whatever_is_raised_becomes_one_sentence(
    error: str, where: str, mode: str, capfd: pytest.CaptureFixture[str]
) -> None:
    subject = "needs|cannot be made" if where == "constructor" else f"{where} of environment 0 raised"
    with pytest.raises(EnvError, match=rf"^OddFaulty-v0:? ({subject}).*{SENTENCES[error]}") as caught:
        rollout(make("Faulty", mode, where=where, error=error), 4)
    assert "\n" not in str(caught.value)
    # Processes are silent, too.
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "package"), [("missing module", "wheels-kit"), ("missing part", r"swig 'gymnasium\[box2d\]'")]
)
def test_missing_packages_come_with_the_command_that_installs_them(
    error: str, package: str, mode: str
) -> None:
    with pytest.raises(EnvError, match=rf"^OddFaulty-v0 needs a missing package.*pip install {package}$"):
        make("Faulty", mode, where="constructor", error=error)


def test_a_fault_while_closing_is_a_warning() -> None:
    env = make("Faulty", where="close", error="text")
    rollout(env, 2)
    with pytest.warns(
        RuntimeWarning, match="^OddFaulty-v0: close raised ValueError: size must be at least 2"
    ):
        env.close()


def test_copies_share_no_arguments(mode: str) -> None:
    env = make("Changing", mode, goals=[1.0])
    assert env.reset()[:, 0].tolist() == [2.0] * N
    env.close()


def test_arguments_that_the_constructor_refuses_are_named(mode: str) -> None:
    with pytest.raises(
        EnvError, match=r"^OddOdd-v0 does not accept env.kwargs=\{'sise': 2\}: TypeError: .*'sise'$"
    ):
        make("Odd", mode, sise=2)


# --- random streams -------------------------------------------------------------------------------


@pytest.fixture
def other_draws() -> None:
    """Another state of every global generator than other tests find."""
    random.seed()
    np.random.seed()  # noqa: NPY002
    torch.seed()


@pytest.mark.parametrize("draw", Drawing.DRAWS)
def test_the_same_seed_gives_the_same_numbers_from_any_generator(draw: str, other_draws: None) -> None:
    runs = []
    for mode in ("sync", "async", "sync"):
        env = make("Drawing", mode, seed=5, draw=draw)
        first = rollout(env)
        env.reset(9)
        runs.append([*first, *rollout(env)])
        random.random(), np.random.random(), torch.rand(1)  # noqa: NPY002
        env.close()
    assert same(runs[0], runs[1])
    assert same(runs[0], runs[2])
    other = make("Drawing", seed=6, draw=draw)
    assert not same(runs[0][: 2 * LENGTH], rollout(other))
    # Copies differ from each other, and from themselves in later episodes.
    assert len({float(value) for step in runs[0] for value in step.obs[:, 1]}) > LENGTH


@pytest.mark.parametrize("kind", Reseeding.SEEDS)
def test_the_same_seed_gives_the_same_numbers_where_no_seed_is_handed_on(kind: str) -> None:
    runs = []
    for mode in ("sync", "async", "sync"):
        env = make("Reseeding", mode, seed=5, kind=kind)
        runs.append(rollout(env, 3 * LENGTH))
        env.close()
    assert same(runs[0], runs[1])
    assert same(runs[0], runs[2])
    assert not same(runs[0], rollout(make("Reseeding", seed=6, kind=kind), 3 * LENGTH))
    goals = torch.stack([step.obs[:, 1] for step in runs[0]])
    # Three episodes of three copies: everyone has a goal of its own.
    assert len(goals.unique()) >= 9


def seeders() -> list[object]:
    return [random.seed, random.Random.seed, np.random.seed, np.random.default_rng, np.random.RandomState]


def test_functions_that_take_seeds_are_as_before() -> None:
    before = seeders()
    env = make("Reseeding", kind="numpy")
    rollout(env)
    assert seeders() == before
    with pytest.raises(EnvError, match="size must be"):
        rollout(make("Faulty", where="step", error="text"))
    assert seeders() == before
    # They ask the operating system again, whatever was drawn from before.
    fresh = set()
    for _ in range(2):
        random.seed(0)
        fresh |= {np.random.default_rng().random(), random.Random().random()}
    assert len(fresh) == 4


def test_seeds_that_are_given_are_kept() -> None:
    expected = [random.Random("a").random(), random.Random(3).random(), np.random.default_rng(3).random()]
    random.seed(5, 1)
    expected.append(random.random())
    with borrowed_globals():
        found = [random.Random("a").random(), random.Random(3).random(), np.random.default_rng(3).random()]
        random.seed(5, 1)
        assert [*found, random.random()] == expected


@pytest.mark.parametrize("draw", ["python", "numpy", "torch"])
def test_copies_do_not_depend_on_how_many_there_are(draw: str) -> None:
    few, many = make("Drawing", draw=draw, num_envs=1), make("Drawing", draw=draw, num_envs=5)
    unit = torch.zeros(5, 2)
    for _ in range(LENGTH):
        assert torch.equal(few.step(unit[:1]).obs, many.step(unit).obs[:1])


@pytest.mark.parametrize("draw", Drawing.DRAWS)
def test_the_process_keeps_its_own_streams(draw: str) -> None:
    def drawn() -> list[float]:
        # Normal numbers come in pairs, of which generators keep one for the next call.
        normal = [random.gauss(0, 1), np.random.randn(), float(torch.randn(()))]  # noqa: NPY002
        return [*normal, random.random(), np.random.random(), float(torch.rand(()))]  # noqa: NPY002

    def seed() -> None:
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)

    seed()
    expected = [drawn(), drawn(), drawn()]
    seed()
    found = [drawn()]
    env = make("Drawing", draw=draw)
    found.append(drawn())
    rollout(env)
    assert [*found, drawn()] == expected


def test_the_stream_of_a_copy_is_part_of_its_state() -> None:
    env, other = (gym.build(gym.Options("Pendulum-v1"), 2, "cpu", seed) for seed in (1, 2))
    other.load_state_dict(env.state_dict())
    for mine, its in zip(env._env.streams, other._env.streams, strict=True):
        assert mine.state() == its.state()
        assert mine.state() != CopyStream(0).state()


def test_environments_of_gymnasium_are_not_asked_for_global_draws() -> None:
    env = gym.build(gym.Options("Pendulum-v1"), 1, "cpu", 0)
    assert not env._env._draws
    assert make("Odd")._env._draws
