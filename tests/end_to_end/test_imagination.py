"""``pwm imagine`` from the outside, and its read-out and window against known answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.end_to_end.tiny import ANALYTIC, FLOW, HOPPER, trained

from pwm.algorithm.diagnostics import open_loop_error
from pwm.algorithm.rollouts import whole_windows, windows
from pwm.analysis.model_quality.imagination import compare, typical
from pwm.analysis.model_quality.readout import fit_readout
from pwm.checkpoints.policies import load_policy
from pwm.checkpoints.policy_evaluation import HELD_OUT_SEED, record_episodes
from pwm.data.batch import Recorded
from pwm.launch.cli import main

EPISODES = 6
RUNS = {
    "mlp": [*HOPPER, "dynamics=mlp"],
    "flow": [*HOPPER, *FLOW],
    # Episodes of 1, 3 and 5 steps: hardly anything to imagine.
    "short": [*ANALYTIC, "env.task=counting", "env.episode_length=5", "env.episode_lengths=[1,3,5]"],
}


@pytest.fixture(scope="module", params=sorted(RUNS))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp(request.param), *RUNS[request.param], "general.epochs=1")


def recorded_episodes(run: Path) -> tuple[Any, Recorded]:
    """Agent and the episodes that ``pwm imagine`` records."""
    agent, config, _, _ = load_policy(run / "best_policy.pt", torch.device("cpu"))
    return agent, record_episodes(agent, config, EPISODES, HELD_OUT_SEED)[0]


def test_picture_and_numbers(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["imagine", str(run), "--episodes", str(EPISODES), "--steps", "8"]) == 0
    assert str(run / "imagination.png") in capsys.readouterr().out
    with Image.open(run / "imagination.png") as picture:
        assert min(picture.size) > 1000
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 100
    assert not list(run.glob(".*.tmp"))
    numbers = json.loads((run / "imagination.json").read_text())

    agent, recorded = recorded_episodes(run)
    steps, shown = numbers["steps"], numbers["shown"]
    lengths = recorded.running.sum(0)
    assert steps == min(8, int(lengths[::2].median()))
    episode, start = shown["episode"], shown["start"]
    assert episode % 2 == 0
    assert start + steps <= lengths[episode]
    window = recorded.obs[start : start + steps + 1, episode]
    np.testing.assert_allclose(shown["real"], window, rtol=1e-6)
    np.testing.assert_allclose(
        shown["real_reward"], recorded.reward[start : start + steps, episode], rtol=1e-6
    )
    assert np.shape(shown["predicted"]) == window.shape
    assert np.shape(shown["predicted_reward"]) == (steps,)
    # Imagination begins at the encoded real state.
    np.testing.assert_allclose(shown["predicted"][0], shown["encoded"][0], rtol=1e-6, atol=1e-6)

    even = Recorded(*(column[:, ::2] for column in recorded))
    batch = windows(even, whole_windows(even, steps), steps)
    expected = open_loop_error(agent.world_model, batch, range(1, steps + 1))
    error = numbers["latent_error"]
    assert error["windows"] == batch.action.shape[1]
    np.testing.assert_allclose(error["mean"], expected, rtol=1e-4)
    assert all(low <= mid <= high for low, mid, high in zip(error["low"], error["median"], error["high"]))
    above = [k for k, value in enumerate(error["mean"], 1) if value > 1.0]
    assert error["first_step_above_1"]["mean"] == (above[0] if above else None)
    assert numbers["readout"]["r2"] <= 1.0
    assert len(numbers["readout"]["r2_channels"]) == window.shape[1]


def test_output_can_be_chosen(run: Path, tmp_path: Path) -> None:
    before = {path.name for path in run.iterdir()}
    chosen = tmp_path / "new" / "picture.png"
    arguments = ["imagine", str(run / "final_policy.pt"), "--episodes", "2", "--steps", "1"]
    assert main([*arguments, "--output", str(chosen)]) == 0
    assert {path.name for path in chosen.parent.iterdir()} == {"picture.png", "picture.json"}
    assert len(json.loads(chosen.with_suffix(".json").read_text())["latent_error"]["mean"]) == 1
    assert {path.name for path in run.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "0"], ["steps=0", "at least 1"]),
        (["--episodes", "1"], ["episodes=1", "at least 2"]),
        (["--output", "picture.pdf"], ["picture.pdf", ".png"]),
    ],
    ids=str,
)
def test_impossible_requests(
    arguments: list[str], words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["imagine", str(tmp_path), *arguments]) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words), message


def test_imagine_needs_a_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["imagine", str(tmp_path), "--checkpoint", "final"]) == 2
    assert "final_policy.pt" in capsys.readouterr().err


class Frozen(torch.nn.Module):
    """Dynamics that predict no change."""

    def next(self, z: torch.Tensor, a: torch.Tensor, e: torch.Tensor | None = None) -> torch.Tensor:
        return z


def test_predicting_no_change_scores_one(tmp_path: Path) -> None:
    agent, recorded = recorded_episodes(trained(tmp_path, *ANALYTIC, "general.epochs=1"))
    agent.world_model.dynamics = Frozen()
    found = compare(agent, recorded, 10)
    torch.testing.assert_close(found.curve("mean"), torch.ones(10))
    torch.testing.assert_close(found.predicted, found.encoded[:1].expand(11, -1))


def test_the_readout_recovers_linear_observations() -> None:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(600, 12, generator=generator)
    latents[:, 11] = 0.5
    obs = 1e3 * latents[:, :5] @ torch.randn(5, 3, generator=generator) + 40.0
    obs = torch.cat([obs, 1e-3 * latents[:, 5:6], torch.full((600, 1), 7.0)], dim=1)
    readout = fit_readout(latents[:300], obs[:300])
    total, channels = readout.r_squared(latents[300:], obs[300:])
    assert total is not None
    assert total > 0.9999
    assert all(score is not None and score > 0.9999 for score in channels[:4])
    assert channels[4] is None
    found = readout(latents[300:])
    assert (found[:, 4] == 7.0).all()
    torch.testing.assert_close(readout.normalise(found), readout.normalise(obs[300:]), atol=0.02, rtol=0.0)


def test_the_readout_does_not_flatter_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(400, 6, generator=generator) for _ in range(2))
    total, _ = fit_readout(latents[:200], noise[:200]).r_squared(latents[200:], noise[200:])
    assert total is not None
    assert total < 0.05
    total, channels = fit_readout(latents, torch.ones(400, 2)).r_squared(latents, torch.ones(400, 2))
    assert total is None
    assert channels == [None, None]


def test_the_window_shown_is_the_median_of_those_that_change() -> None:
    change = torch.tensor([[0.0, 9.0, 9.0, 9.0, 0.1]])
    error = torch.tensor([[5.0, 3.0, 1.0, 2.0, 0.0]])
    assert typical(error, change) == 3
    assert typical(error, torch.full((1, 5), 0.1)) == 3
