"""How far a world model can be trusted: the same actions in reality and in imagination, from many starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pwm.algorithm.agent import Agent
from pwm.algorithm.rollouts import along_actions, observations, whole_windows, windows
from pwm.analysis.model_quality.imagination_strip import draw
from pwm.analysis.model_quality.readout import Readout, fit_readout
from pwm.checkpoints.policies import load_policy
from pwm.checkpoints.policy_evaluation import HELD_OUT_SEED, record_episodes
from pwm.checkpoints.policy_files import find_policy
from pwm.configuration.building import pick_device
from pwm.data.batch import Recorded
from pwm.errors import ConfigError
from pwm.files import check_writable, strict, write_json

# Shares of the starts between which the band of the picture lies.
BAND = (0.1, 0.9)
CURVES = ("mean", "median", "low", "high")


@dataclass(frozen=True)
class Imagination:
    """Reality beside open-loop imagination along the same K actions.

    One window of the recorded episodes is kept whole: the one of median error among those that change at
    least as much as the average.

    Attributes:
        episode, start: the window shown begins at this step of this evaluation episode.
        real: [K+1, obs_dim], its observations.
        encoded: [K+1, obs_dim], read out of its encoded observations: what the read-out itself loses.
        predicted: [K+1, obs_dim], read out of the imagined latents.
        real_reward, predicted_reward: [K], environment reward.
        error: [K, B], squared latent error of B windows after 1..K steps, over the mean squared change of
            all B since their start. The mean over B is ``open_loop_error``.
        over_variance: [K], the same mean error over the variance of latents: what is left to say where a
            periodic motion comes back to its start, so that "no change" is a good prediction.
        readout: from latents to observations, fitted on other episodes.
        r2, r2_channels: share of the variance of real observations that it recovers from their latents.
    """

    episode: int
    start: int
    real: Tensor
    encoded: Tensor
    predicted: Tensor
    real_reward: Tensor
    predicted_reward: Tensor
    error: Tensor
    over_variance: Tensor
    readout: Readout
    r2: float | None
    r2_channels: list[float | None]

    def curve(self, name: str) -> Tensor:
        """Relative error [K] after 1..K steps over the windows: ``mean``, ``median``, ``low`` or ``high``."""
        if name == "mean":
            return self.error.mean(1)
        share = {"median": 0.5, "low": BAND[0], "high": BAND[1]}[name]
        return self.error.quantile(share, dim=1)

    def horizon(self, name: str) -> int | None:
        """Step at which that curve first exceeds 1, what predicting no change scores; None if never."""
        above = (self.curve(name) > 1.0).nonzero()
        return int(above[0]) + 1 if len(above) else None

    def summary(self) -> dict[str, Any]:
        """Everything measured, ready for JSON."""
        difference = self.readout.normalise(self.predicted) - self.readout.normalise(self.real)
        return {
            "steps": len(self.error),
            "readout": {"r2": self.r2, "r2_channels": self.r2_channels},
            "latent_error": {
                "windows": self.error.shape[1],
                "band": list(BAND),
                **{name: self.curve(name).tolist() for name in CURVES},
                "over_variance": self.over_variance.tolist(),
                "first_step_above_1": {name: self.horizon(name) for name in ("mean", "median")},
            },
            "shown": {
                "episode": self.episode,
                "start": self.start,
                "channel_mean": self.readout.mean.tolist(),
                "channel_std": self.readout.scale.tolist(),
                "channel_rmse": difference.square().mean(0).sqrt().tolist(),
                "real": self.real.tolist(),
                "encoded": self.encoded.tolist(),
                "predicted": self.predicted.tolist(),
                "real_reward": self.real_reward.tolist(),
                "predicted_reward": self.predicted_reward.tolist(),
            },
        }


def check_imagination(output: Path | None, steps: int, episodes: int) -> None:
    """Raise ConfigError unless the numbers make sense and ``output`` names a PNG file."""
    if steps < 1:
        raise ConfigError(f"steps={steps}; it must be at least 1")
    if episodes < 2:
        raise ConfigError(
            f"episodes={episodes}; it must be at least 2: some are shown, others fit the read-out"
        )
    if output is not None and (output.suffix.lower() != ".png" or output.is_dir()):
        raise ConfigError(f"output {output}: it must be a file name that ends in .png")


def imagine_run(run: Path, which: str, steps: int, episodes: int, output: Path | None = None) -> str:
    """Draw the strip of one policy and write its numbers beside it; returns a line about both.

    Args:
        run: run folder or policy file.
        which: ``best`` or ``final``.
        steps: imagined steps; cut to the length of the episodes.
        episodes: held-out episodes to record; one half is shown, the other fits the read-out.
        output: PNG to write, the JSON file gets the same name; None means ``imagination.png`` beside the
            policy.

    Raises:
        ConfigError: impossible numbers or file name.
        CheckpointError: no such policy.
        StorageError: its folder cannot be written to.
    """
    check_imagination(output, steps, episodes)
    path = find_policy(run, which)
    output = path.with_name("imagination.png") if output is None else output
    agent, config, spec, progress = load_policy(path, pick_device("cpu"))
    check_writable(output.parent)
    recorded, _ = record_episodes(agent, config, episodes, HELD_OUT_SEED)
    found = compare(agent, recorded, steps)
    about = {
        "policy": str(path),
        "task": spec.name,
        "algorithm": config.preset,
        "training_seed": config.general.seed,
        "evaluation_seed": HELD_OUT_SEED,
        "progress": progress,
        "episodes": episodes,
        "control_dt": spec.control_dt,
    }
    numbers = strict({**about, **found.summary()})
    draw(numbers, output)
    write_json(output.with_suffix(".json"), numbers)
    return imagination_in_words(output, found)


def imagination_in_words(path: Path, found: Imagination) -> str:
    """One line about a finished picture."""
    horizon, last, steps = found.horizon("mean"), float(found.curve("mean")[-1]), len(found.error)
    reach = "never exceeds 1" if horizon is None else f"first exceeds 1 at step {horizon}"
    score = "nothing varies" if found.r2 is None else f"R^2 {found.r2:.4f}"
    return f"{path}: relative latent error {reach} ({last:.2g} at step {steps}); read-out {score}"


@torch.no_grad()
def compare(agent: Agent, recorded: Recorded, steps: int) -> Imagination:
    """Imagine along recorded actions.

    Args:
        agent: its world model is judged.
        recorded: N >= 2 episodes; windows come from the even ones, the read-out from the odd ones.
        steps: imagined steps K, cut so that at least half of the even episodes are long enough.
    """
    model = agent.world_model
    shown = Recorded(*(column[:, ::2] for column in recorded))
    other = observations(Recorded(*(column[:, 1::2] for column in recorded)))
    steps = min(steps, int(shown.running.sum(0).median()))
    readout = fit_readout(model.encode(other), other)
    seen = observations(shown)
    latents = model.encode(seen)
    r2, r2_channels = readout.r_squared(latents, seen)

    starts = whole_windows(shown, steps)
    batch = windows(shown, starts, steps)
    rollout = along_actions(model, batch)
    b = typical(rollout.error, rollout.change)
    start, column = divmod(int(starts[b]), shown.running.shape[1])
    return Imagination(
        episode=2 * column,
        start=start,
        real=batch.obs[:, b],
        encoded=readout(rollout.encoded[:, b]),
        predicted=readout(rollout.imagined[:, b]),
        real_reward=batch.reward[:, b],
        predicted_reward=rollout.rewards(agent)[:, b],
        error=rollout.relative,
        over_variance=rollout.error.mean(1) / latents.var(0, correction=0).sum(),
        readout=readout,
        r2=r2,
        r2_channels=r2_channels,
    )


def typical(error: Tensor, change: Tensor) -> int:
    """Column of median summed ``error`` among those whose summed ``change`` is at least the average."""
    moved = change.sum(0)
    # A mean of equal numbers can be rounded to slightly more than each of them.
    candidates = (moved >= (1.0 - 1e-6) * moved.mean()).nonzero().squeeze(1)
    order = error.sum(0)[candidates].argsort()
    return int(candidates[order[(len(order) - 1) // 2]])
