"""Pretraining: a world model of one task or of many, learned from a data set alone."""

from __future__ import annotations

import torch

from pwm.algorithm.model_learning import ModelLearner
from pwm.data.offline.dataset import HELD_OUT, OfflineData
from pwm.errors import ConfigError
from pwm.models.latent_space import Observations
from pwm.models.world_model import build_world_model
from pwm.training.recorded import open_data
from pwm.training.seeding import seeded_weights, stream_seed
from pwm.training.trainer import Setting
from pwm.training.trainers.pretraining.options import Options
from pwm.training.trainers.pretraining.trainer import PretrainedSpec, PretrainingTrainer

COMPONENTS = ("dynamics",)

__all__ = ["COMPONENTS", "Options", "PretrainedSpec", "build", "specification"]


def build(setting: Setting) -> PretrainingTrainer:
    """Return the trainer with its data and an untrained model.

    Raises:
        ConfigError: a task that the data set does not know, or options that do not fit several tasks.
        DataError: the data set cannot be used.
    """
    options: Options = setting.options
    setting.refuse_prior_data("pretraining")
    shared = options.data, options.objective.horizon, options.task_names(), options.balanced, options.held_out
    data, held_out = open_data(*shared), open_data(*shared, HELD_OUT)
    spec = specification(data)
    n_tasks = len(spec.table)
    sizes = options.world_model
    if n_tasks and not sizes.task_dim:
        raise ConfigError(f"alg.task_dim=0 tells none of {len(data.tasks)} tasks apart; it must be positive")
    device = setting.device
    generator = torch.Generator(device).manual_seed(stream_seed(setting.seed, "agent"))
    with seeded_weights(setting.seed):
        model = build_world_model(sizes, setting.chosen["dynamics"], data.obs_dim, data.act_dim, n_tasks)
    if n_tasks and isinstance(space := model.dynamics.space, Observations):
        space.has_widths([task["obs_dim"] for task in spec.tasks])
    parts = options.model_learning, options.objective, options.optimisation
    setting.ranks.share(options.model_learning.wm_batch_size)
    learner = ModelLearner(*parts, model.to(device), generator, setting.ranks)
    return PretrainingTrainer(options, learner, data, held_out, spec, generator)


def specification(data: OfflineData) -> PretrainedSpec:
    """Return what stands for the tasks of ``data`` where a run needs one."""
    layout = data.layout
    rows = layout.tasks if len(data.tasks) > 1 else (layout.tasks[data.tasks[0]],)
    name = layout.task_set if len(data.tasks) > 1 else rows[0].name
    length = max(row.episode_length or 0 for row in rows)
    tasks = [{"name": row.name, "obs_dim": row.obs_dim, "action_dim": row.action_dim} for row in rows]
    return PretrainedSpec(name, data.obs_dim, data.act_dim, length, 0.0, tasks)
