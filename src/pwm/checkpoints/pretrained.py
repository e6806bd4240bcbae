"""World models to start from: files of ``pwm convert``, and what pretraining saved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pwm.algorithm.model_learning import CONSTANT_REWARD
from pwm.checkpoints import storage, world_model_file
from pwm.checkpoints.policy_files import find_policy
from pwm.checkpoints.world_model_file import RewardStatistics, Sizes, StoredWorldModel
from pwm.configuration.config import ExperimentConfig
from pwm.errors import CheckpointError
from pwm.models.normalization import RunningMeanStd

PRETRAINING = "pretraining"
MODEL, REWARDS = "world_model.", "reward_rms."


def load_world_model(path: Path, device: torch.device | str = "cpu") -> StoredWorldModel:
    """Read the world model in ``path``: a file, or the folder of a run of pretraining.

    Raises:
        CheckpointError: it cannot be read, or is a policy.
    """
    content = storage.load(file_of(path), (storage.POLICY_FORMAT, world_model_file.FORMAT), device)
    if content["format"] == world_model_file.FORMAT:
        return world_model_file.parse(content)
    return of_pretraining(content)


def file_of(path: Path) -> Path:
    """Return the file that ``path`` names: itself, or of a run folder the final one, else the best so far."""
    if not path.is_dir():
        return path
    return find_policy(path, "final" if (path / "final_policy.pt").is_file() else "best")


def is_pretrained(content: Mapping[str, Any]) -> bool:
    """Whether a file of the format of policies holds what pretraining saved: a world model alone."""
    return bool(content["config"]["alg"].get("trainer") == PRETRAINING)


def of_pretraining(content: Mapping[str, Any]) -> StoredWorldModel:
    """Return the world model in the content of a file that pretraining saved.

    Raises:
        CheckpointError: it is a policy.
    """
    if not is_pretrained(content):
        raise CheckpointError("is a policy, not a world model that was pretrained")
    config, spec = ExperimentConfig.from_dict(content["config"]), content["spec"]
    modules: Mapping[str, Tensor] = content["modules"]
    tasks = tuple(task["name"] for task in spec["tasks"])
    several = f"{MODEL}task_embedding.weight" in modules
    sizes = sizes_of(config, spec["obs_dim"], spec["act_dim"], tasks if several else ())
    state = {key.removeprefix(MODEL): value for key, value in modules.items() if key.startswith(MODEL)}
    reward = _rewards(modules, len(tasks)) if config.alg.model_learning.rew_rms else None
    return StoredWorldModel(sizes, state, reward)


def sizes_of(config: ExperimentConfig, obs_dim: int, act_dim: int, tasks: tuple[str, ...]) -> Sizes:
    """Return the sizes of the world model that a run of pretraining learns; ``tasks`` is empty for one."""
    model, dynamics = config.alg.world_model, config.chosen["dynamics"]
    return Sizes(model, dynamics, obs_dim, act_dim, len(tasks), tasks)


def _rewards(modules: Mapping[str, Tensor], tasks: int) -> RewardStatistics:
    """The scale of rewards, which are divided by it and not shifted."""
    statistics = RunningMeanStd(epsilon=0.0, groups=tasks if tasks > 1 else 0)
    statistics.load_state_dict({key: modules[REWARDS + key] for key in statistics.state_dict()})
    scale = statistics.relative_std(CONSTANT_REWARD)
    return RewardStatistics(torch.zeros_like(scale), scale.square(), statistics.count)
