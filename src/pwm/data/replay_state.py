"""True if saved replay states fit a buffer and each other, checked before anything is overwritten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pwm.errors import DataError

TENSORS = ("rows", "is_transition", "first", "cursor", "episode_step")


def check_states(states: Sequence[Mapping[str, Any]], sizes: Mapping[str, int]) -> None:
    """Raise DataError unless ``states`` fit a buffer of ``sizes`` and follow one another without a gap.

    Args:
        states: a state and its increments, see ``ReplayBuffer.state_dict``.
        sizes: ``num_envs, obs_dim, act_dim, horizon, rows_per_env`` of the buffer.
    """
    if not states:
        raise DataError("the saved replay buffer is empty: no state was given")
    for state in states:
        _check_sizes(state, sizes)
        _check_complete(state)
        _check_shapes(state, sizes)
    # Older rows are overwritten by the end, so it does not matter whether they are there.
    needed = _newest(states[-1]) + 1 - sizes["rows_per_env"]
    covered = torch.zeros_like(needed)
    for state in states:
        if bool((state["first"] > torch.maximum(covered, needed)).any()):
            raise DataError("the saved replay buffer is inconsistent: an increment is missing")
        covered = state["cursor"]


def _newest(state: Mapping[str, Any]) -> Tensor:
    return state["cursor"] - (state["episode_step"] == 0).to(torch.int64)


def _check_sizes(state: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    differing = [
        f"{key} is {state.get(key)} in the saved state but {here} here"
        for key, here in sizes.items()
        if state.get(key) != here
    ]
    if differing:
        raise DataError("the saved replay buffer has other sizes: " + ", ".join(differing))


def _check_complete(state: Mapping[str, Any]) -> None:
    missing = [key for key in TENSORS if not isinstance(state.get(key), Tensor)]
    if missing or not isinstance(state.get("total_added"), int):
        raise DataError(f"the saved replay buffer is incomplete: {', '.join(missing) or 'total_added'}")


def _check_shapes(state: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    count, n = len(state["rows"]), sizes["num_envs"]
    expected = {
        "rows": (count, sizes["obs_dim"] + sizes["act_dim"] + 2),
        "is_transition": (count,),
        "first": (n,),
        "cursor": (n,),
        "episode_step": (n,),
    }
    wrong = [
        f"{key} {tuple(state[key].shape)}" for key, shape in expected.items() if state[key].shape != shape
    ]
    if wrong or state["total_added"] % n:
        raise DataError("the saved replay buffer is inconsistent: " + ", ".join(wrong or ["total_added"]))
    held = _newest(state) + 1 - state["first"]
    if bool((held < 0).any()) or bool((held > sizes["rows_per_env"]).any()) or int(held.sum()) != count:
        raise DataError(f"the saved replay buffer is inconsistent: {count} rows instead of {int(held.sum())}")
