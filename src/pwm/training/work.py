"""How far a run is, and what its epochs compute, as its options tell before anything is built.

Options of a trainer have ``progress``, the metric that counts how far a run is; ``steps(epochs)``, what it
counts in a whole run; and ``work``.
"""

from __future__ import annotations

from dataclasses import dataclass

ENV_STEPS, UPDATES = "env_steps", "updates"
# What a metric counts, where that is not its name.
WORDS = {ENV_STEPS: "environment steps"}


@dataclass(frozen=True)
class Work:
    """What an epoch computes besides ``wm_iterations`` updates of the world model.

    Attributes:
        rollouts: imagined rollouts, each followed by an update of the actor and those of the critics.
        encoded: observations that are encoded for acting and for rollouts to start from.
        acted: latents for which the actor chooses an action that is executed.
        predicted: latents that the world model predicts for acting.
        interrupted: real ends of episodes interrupt rollouts.
        collecting: copies of the environment that it collects in; 0 where nothing is collected.
        warmup_steps: steps of all these copies before the first epoch.
        warmup_updates: updates of the world model before the first epoch.
    """

    rollouts: int = 0
    encoded: int = 0
    acted: int = 0
    predicted: int = 0
    interrupted: bool = False
    collecting: int = 0
    warmup_steps: int = 0
    warmup_updates: int = 0


def in_words(progress: str) -> str:
    """Return what the metric ``progress`` counts, for example ``environment steps``."""
    return WORDS.get(progress, progress)
