"""Every option of training is refused beyond its bounds, and accepted at them."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from typing import Any

import pytest

from pwm.configuration.config import compose_config
from pwm.configuration.general import General
from pwm.errors import ConfigError
from pwm.parts import PART, flat_values, nested
from pwm.training.trainers.online.options import Options

# Values at the edge that are allowed, and values beyond it.
AT_LEAST_ONE = [
    "max_epochs",
    "num_critics",
    "critic_iterations",
    "critic_batches",
    "wm_batch_size",
    "actor_batch_size",
    "actor_iterations",
    "max_skipped_updates",
    "horizon",
    "num_envs",
]
NOT_NEGATIVE = [
    "wm_iterations",
    "warmup_env_steps",
    "warmup_updates",
]
WEIGHTS = ["lr_final", "dynamics_coef", "reward_coef", "termination_coef", "saturation_coef"]
POSITIVE = [
    "actor_lr",
    "critic_lr",
    "model_lr",
    "encoder_lr_scale",
    "simnorm_scale",
]
CLIPS = ["actor_grad_norm", "critic_grad_norm", "wm_grad_norm"]
SHARES = ["gamma", "lam", "target_rate", "actor_average", "replay_starts", "open_loop_share"]
BOUNDS: dict[str, tuple[list[object], list[object]]] = {
    **{key: ([1], [0, -1]) for key in AT_LEAST_ONE},
    **{key: ([0], [-1]) for key in NOT_NEGATIVE},
    **{key: ([0.0], [-0.5, math.inf, math.nan]) for key in WEIGHTS},
    **{key: ([1e-12], [0.0, -0.5, math.inf, math.nan]) for key in POSITIVE},
    **{key: ([1e-12, math.inf], [0.0, -0.5, math.nan]) for key in CLIPS},
    **{key: ([0.0, 1.0], [-0.01, 1.01, math.nan]) for key in SHARES},
    "replay_recency": ([1.0, 100.0], [0.99, math.inf, math.nan]),
    "lr_decay_start": ([0.0, 0.99], [-0.01, 1.0]),
    "adam_betas": ([[0.0, 0.99]], [[0.9], [0.9, 0.9, 0.9], [0.9, 1.0], [-0.1, 0.9]]),
    "buffer_size": ([128 * 18], [128 * 18 - 1]),
    "simnorm_dim": ([2], [1, 0, 3]),
    "latent_dim": ([8], [0, -8, 12]),
    "encoder_units": ([[1], []], [[0], [8, -1]]),
    "critic_units": ([[1], []], [[0]]),
    "task_dim": ([0], [1]),
}


def options_of(values: dict[str, object]) -> Options:
    """Options with ``values`` at flat keys, built part by part as a configuration does it."""

    def build(cls: type[Any], values: dict[str, Any]) -> Any:
        hints = typing.get_type_hints(cls)
        parts = {f.name: hints[f.name] for f in dataclasses.fields(cls) if PART.items() <= f.metadata.items()}
        built = {k: build(parts[k], v) if k in parts else v for k, v in nested(cls, values).items()}
        return cls(**built)

    return build(Options, values)


@pytest.mark.parametrize("key", BOUNDS)
def test_options_end_where_they_say(key: str) -> None:
    allowed, refused = BOUNDS[key]
    for value in allowed:
        small = {"actor_batch_size": 1} if key in ("horizon", "num_envs") else {}
        assert flat_values(options_of({key: value} | small))[key] == value
    for value in refused:
        with pytest.raises(ConfigError, match=re.escape(f"alg.{key}={value}")):
            options_of({key: value})


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize(
    "key",
    [
        "alg.dynamics.output_gain",
        "alg.actor.init_log_std",
        "alg.actor.min_log_std",
        "alg.reward_head.vmin",
        "alg.reward_head.vmax",
    ],
)
def test_numbers_of_networks_are_finite(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match="finite"):
        compose_config(["alg=pwm_small_h16_flow", f"{key}={value}"])


def test_a_run_is_saved_after_some_time_or_at_its_end_only() -> None:
    assert General(save_interval=math.inf).save_interval == math.inf
    for value in (math.nan, -1.0):
        with pytest.raises(ConfigError, match=f"general.save_interval={value}"):
            General(save_interval=value)


@pytest.mark.parametrize("key", ["seed", "threads"])
def test_seed_and_threads_end_where_they_say(key: str) -> None:
    most = {"seed": 2**64 - 1, "threads": 1024}[key]
    for value in (0, most):
        assert getattr(General(**{key: value}), key) == value  # type: ignore[arg-type]
    for value in (-1, most + 1):
        with pytest.raises(ConfigError, match=f"general.{key}={value}; it must be at least 0 and "):
            General(**{key: value})  # type: ignore[arg-type]


def test_sizes_that_need_each_other_end_where_they_say() -> None:
    sizes = {"num_envs": 4, "horizon": 5, "actor_batch_size": 20}
    assert options_of({**sizes, "buffer_size": 28}).buffer_size == 28
    assert options_of({**sizes, "warmup_updates": 1, "warmup_env_steps": 24})
    assert options_of(sizes | {"actor_batch_size": 40, "replay_starts": 0.5}).replayed_starts == 20
    refused = [
        ({"buffer_size": 27}, r"buffer_size=27 .* = 28"),
        ({"warmup_updates": 1, "warmup_env_steps": 23}, r"warmup_env_steps=23 .* = 24"),
        ({"actor_batch_size": 21}, "needs 21 states .* = 20"),
        ({"actor_batch_size": 42, "replay_starts": 0.5}, "needs 21 states .* = 20"),
    ]
    for changes, named in refused:
        with pytest.raises(ConfigError, match=named):
            options_of(sizes | changes)
    # Lockstep takes no start states.
    assert options_of(sizes | {"actor_batch_size": 21, "collect": "lockstep"})
