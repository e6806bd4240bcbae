"""``pwm diagnose``: smoothness and quality of a policy's world model and critic, on its own real episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pwm.algorithm.agent import Agent
from pwm.algorithm.gradient_quality import actor_gradient_bias
from pwm.algorithm.rollouts import evenly, whole_windows, windows
from pwm.analysis.model_quality.diagnosis_plots import draw_model, draw_smoothness
from pwm.analysis.model_quality.diagnosis_text import diagnosis_in_words
from pwm.analysis.model_quality.integration import integration_error
from pwm.analysis.model_quality.prediction import calibration, open_loop, return_gap
from pwm.analysis.model_quality.smoothness import smoothness
from pwm.checkpoints.policies import load_policy
from pwm.checkpoints.policy_evaluation import HELD_OUT_SEED, check_episodes, record_episodes
from pwm.checkpoints.policy_files import find_policy
from pwm.configuration.building import pick_device
from pwm.data.batch import Batch, Recorded
from pwm.errors import ConfigError
from pwm.files import check_writable, strict, write_json, write_text

# The furthest open-loop horizon.
STEPS = 64
# States at which the model is differentiated and integrated.
STATES = 128


@dataclass(frozen=True)
class Subject:
    """Run whose policy, model and critic are judged.

    Attributes:
        agent: the policy with its world model and critics.
        recorded: real episodes of its deterministic policy.
        steps: open-loop horizon, at most ``STEPS``; 0 if the episodes are too short for any.
        starts_per_gradient: start states of one gradient of the actor.
        generator: source of randomness, on the agent's device.
    """

    agent: Agent
    recorded: Recorded
    steps: int
    starts_per_gradient: int
    generator: torch.Generator

    def starts(self, steps: int) -> Batch | None:
        """At most ``STATES`` evenly spaced windows of ``steps`` transitions; None if there are none."""
        found = evenly(whole_windows(self.recorded, steps), STATES)
        return windows(self.recorded, found, steps) if len(found) else None


def _smoothness(subject: Subject) -> dict[str, Any] | None:
    batch = subject.starts(min(subject.agent.objective.horizon, max(1, subject.steps)))
    return None if batch is None else smoothness(subject.agent, batch, subject.generator)


def _integration(subject: Subject) -> dict[str, Any] | None:
    batch, model = subject.starts(1), subject.agent.world_model
    if batch is None:
        return None
    latents = model.encode(batch.obs)
    return integration_error(model.dynamics, latents[0], batch.action[0], latents[1])


def _open_loop(subject: Subject) -> dict[str, Any] | None:
    return open_loop(subject.agent, subject.recorded, subject.steps) if subject.steps else None


def _return_gap(subject: Subject) -> dict[str, Any] | None:
    return return_gap(subject.agent, subject.recorded, subject.steps) if subject.steps else None


def _value_calibration(subject: Subject) -> dict[str, Any]:
    return calibration(subject.agent, subject.recorded)


def _actor_gradient(subject: Subject) -> dict[str, Any]:
    recorded = subject.recorded
    found = actor_gradient_bias(
        subject.agent,
        recorded.obs[:-1][recorded.running],
        subject.starts_per_gradient,
        subject.generator,
    )
    return {
        "start_states": subject.starts_per_gradient,
        "clipped_at": subject.agent.actor_critic.options.actor_grad_norm,
        "bias": found.bias,
        "bias_bound": found.bias_bound,
        **dataclasses.asdict(found),
    }


# Section of the result -> what measures it; None where it does not apply. A further measurement is one line
# here and one entry of ``diagnosis_text.SECTIONS``.
MEASUREMENTS: dict[str, Callable[[Subject], dict[str, Any] | None]] = {
    "open_loop": _open_loop,
    "return_gap": _return_gap,
    "value_calibration": _value_calibration,
    "smoothness": _smoothness,
    "integration": _integration,
    "actor_gradient": _actor_gradient,
}


def check_diagnosis(output: Path | None, episodes: int, seed: int) -> None:
    """Raise ConfigError unless the numbers make sense and ``output`` can be a folder."""
    check_episodes(episodes)
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed={seed}; it must be at least 0 and below 2**32")
    if output is not None and output.exists() and not output.is_dir():
        raise ConfigError(f"output {output} is a file; it must be a folder, or a new name for one")


def diagnose_run(
    run: Path,
    which: str = "best",
    episodes: int = 16,
    seed: int | None = None,
    device_name: str = "cpu",
    output: Path | None = None,
) -> str:
    """Diagnose one policy; write ``diagnosis.json``, ``diagnosis.txt`` and two pictures; return the text.

    Args:
        run: run folder or policy file.
        which: ``best`` or ``final``.
        episodes: real episodes to record.
        seed: of the episodes and of every random direction; None takes the held-out evaluation seed.
        device_name: where to compute.
        output: folder to write to; None means beside the policy.

    Raises:
        ConfigError: impossible numbers, output or device.
        CheckpointError: no such policy.
        StorageError: the folder cannot be written to.
    """
    seed = HELD_OUT_SEED if seed is None else seed
    check_diagnosis(output, episodes, seed)
    path = find_policy(run, which)
    device = pick_device(device_name)
    agent, config, spec, progress = load_policy(path, device)
    folder = path.parent if output is None else output
    check_writable(folder)
    recorded, result = record_episodes(agent, config, episodes, seed)
    numbers = {
        "policy": str(path),
        "task": spec.name,
        "algorithm": config.preset,
        "dynamics": config.chosen["dynamics"].name,
        "training_seed": config.general.seed,
        "evaluation_seed": seed,
        "progress": progress,
        "control_dt": spec.control_dt,
        "horizon": config.alg.objective.horizon,
        "gamma": config.alg.objective.gamma,
        "latent_dim": agent.world_model.latent_dim,
        "episodes": result.summary(),
        **diagnose(agent, recorded, config.alg.starts, seed),
    }
    numbers = strict(numbers)
    text = diagnosis_in_words(numbers)
    draw_model(numbers, folder / "diagnosis_model.png")
    draw_smoothness(numbers, folder / "diagnosis_smoothness.png")
    write_text(folder / "diagnosis.txt", text + "\n")
    write_json(folder / "diagnosis.json", numbers)
    return text


@torch.no_grad()
def diagnose(
    agent: Agent, recorded: Recorded, starts_per_gradient: int, seed: int
) -> dict[str, dict[str, Any] | None]:
    """Every measurement of ``MEASUREMENTS`` on real episodes of the agent's own policy, by section.

    Open-loop horizons end where less than half of the episodes are long enough.
    """
    steps = max(0, min(STEPS, int(recorded.running.sum(0).median()) - 1))
    found = {}
    for section, measure in MEASUREMENTS.items():
        # Every section draws from a stream of its own: a further one leaves the others as they are.
        generator = torch.Generator(agent.generator.device).manual_seed(seed)
        found[section] = measure(Subject(agent, recorded, steps, starts_per_gradient, generator))
    return found
