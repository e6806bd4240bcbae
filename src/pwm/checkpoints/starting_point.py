"""What a run may start from: a policy of another run, or a world model without one."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pwm.algorithm.model_learning import ModelLearner
from pwm.checkpoints import storage, world_model_file
from pwm.checkpoints.pretrained import PRETRAINING, file_of, is_pretrained, of_pretraining
from pwm.checkpoints.single_task import of_task
from pwm.checkpoints.world_model_file import RewardStatistics, StoredWorldModel, narrowed
from pwm.configuration.config import ExperimentConfig, flatten
from pwm.envs.task_table import table_name
from pwm.errors import CheckpointError
from pwm.models.scalar_heads import RegressionHead
from pwm.training.trainer import Trainer

TERMINATION = "termination_net."


def start_from(trainer: Trainer, path: Path, config: ExperimentConfig) -> None:
    """Give ``trainer`` the weights in ``path``: all from a policy, the world model's from other files.

    Of a world model of several tasks the run takes that of its own.

    Warns:
        RuntimeWarning: rewards or widths of a converted model leave something open.

    Raises:
        CheckpointError: the file cannot be read, belongs to another task, or has other sizes; for a
            converted model the message names the overrides that make it fit.
    """
    content = storage.load(file_of(path), (storage.POLICY_FORMAT, world_model_file.FORMAT), trainer.device)
    try:
        if content["format"] == world_model_file.FORMAT:
            _take_world_model(trainer, world_model_file.parse(content), config)
        elif is_pretrained(content) and config.trainer != PRETRAINING:
            _take_world_model(trainer, of_pretraining(content), config)
        else:
            _take_policy(trainer, content)
    except CheckpointError as error:
        raise CheckpointError(f"general.checkpoint={path} {error}") from error


def _take_policy(trainer: Trainer, content: dict[str, Any]) -> None:
    found, task = content["spec"]["name"], trainer.spec.name
    if found != task:
        raise CheckpointError(f"belongs to task {found!r}, this run trains {task!r}")
    try:
        trainer.learner.load_state_dict(content["modules"])
    except RuntimeError as error:
        raise CheckpointError("does not fit this configuration: " + str(error).replace("\n", " ")) from error


def _take_world_model(trainer: Trainer, stored: StoredWorldModel, config: ExperimentConfig) -> None:
    learner, spec = trainer.model, trainer.spec
    if learner is None:
        raise CheckpointError(f"is a world model, which alg.trainer={config.trainer} does not train")
    several = stored.sizes.n_tasks > 0
    stored = of_task(stored, table_name(spec.name))
    _check_settings(stored, config)
    widths = stored.sizes.obs_dim, stored.sizes.act_dim
    stored = narrowed(stored, spec.obs_dim, spec.act_dim)
    # Models of several tasks are padded to the widest.
    if widths != (spec.obs_dim, spec.act_dim) and not several:
        warnings.warn(
            f"general.checkpoint: the world model reads observations and actions of width {widths}, "
            f"{spec.name} has {(spec.obs_dim, spec.act_dim)}; the rest is taken for padding with zeros",
            RuntimeWarning,
            stacklevel=2,
        )
    model = learner.world_model
    # A file without a predictor of terminations leaves the run its own, untrained one.
    own = {k: v for k, v in model.state_dict().items() if k.startswith(TERMINATION)}
    state = {**own, **stored.state}
    problems = world_model_file.differences(model.state_dict(), state)
    if problems:
        raise CheckpointError(f"is damaged: {'; '.join(problems)}")
    model.load_state_dict(state)
    _take_rewards(learner, stored.reward)


def _check_settings(stored: StoredWorldModel, config: ExperimentConfig) -> None:
    """Raise CheckpointError with all settings in which ``config`` differs from the world model."""
    here = flatten(config.to_dict())
    needed = {k: v for k, v in stored.sizes.settings().items() if here.get(k) != v}
    if needed:
        overrides = world_model_file.overrides
        now = overrides({k: here[k] for k in needed if k in here})
        raise CheckpointError(f"does not fit this configuration ({now}); it fits with {overrides(needed)}")


def _take_rewards(learner: ModelLearner, reward: RewardStatistics | None) -> None:
    """Let the rewards of the world model mean what they did where it was trained.

    There they were (r - mean) / std, here they are r / std, or r itself without ``alg.rew_rms``.
    """
    scaled = learner.options.rew_rms
    if reward is None:
        if scaled:
            warnings.warn(
                "general.checkpoint records no scale of rewards: its world model predicts them as the "
                "environment gives them and has to learn the scale of this run; alg.rew_rms=false needs none",
                RuntimeWarning,
                stacklevel=3,
            )
        return
    if scaled:
        learner.reward_rms.load_state_dict({"mean": reward.mean, "var": reward.var, "count": reward.count})
    *_, head = learner.world_model.reward_net.modules()
    if not isinstance(learner.world_model.reward_head, RegressionHead) or not isinstance(head, nn.Linear):
        if not scaled or float(reward.mean) != 0.0:
            warnings.warn(
                "general.checkpoint: rewards were shifted and scaled where the world model was trained, "
                "which its bins cannot take back; it has to learn them anew",
                RuntimeWarning,
                stacklevel=3,
            )
        return
    with torch.no_grad():
        if not scaled:
            head.weight.mul_(reward.std)
            head.bias.mul_(reward.std)
        head.bias.add_(reward.mean / reward.std if scaled else reward.mean)
