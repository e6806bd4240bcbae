"""One optimiser step: gradient clipping and the non-finite policy, without a host synchronisation.

The parameters of a group lie in one vector, and so do their gradients and moments: small networks would spend
more time on the calls for each of their tensors than on the arithmetic.

A step whose gradient norm is not finite is skipped and counted; ``check_finite`` raises once too many were
skipped in a row. Clipping and skipping ride on the ``grad_scale`` and ``found_inf`` inputs of torch's fused
Adam, so gradients are scaled inside the update kernel. ``follow`` moves slow copies behind.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pwm import checks
from pwm.algorithm.ranks import ALONE, Ranks
from pwm.errors import ConfigError, NonFiniteError

# Share of the decay that is done, from the share of its time that has passed.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda passed: passed,
    "cosine": lambda passed: 0.5 - 0.5 * math.cos(math.pi * passed),
    "constant": lambda passed: 0.0,
}

# What Adam keeps of every entry of a parameter.
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class Options:
    """Settings that all optimisers share.

    Attributes:
        lr_schedule: ``linear`` or ``cosine`` decay that reaches ``lr_final`` as the last epoch ends, or
            ``constant``.
        lr_decay_start: when the decay begins: after this share of the run, or, above 1, after so many epochs.
            A run of fewer epochs keeps its initial rates.
        lr_final: learning rate at the end of the decay.
        max_skipped_updates: non-finite updates in a row before training stops.
    """

    lr_schedule: str = "linear"
    lr_decay_start: float = 0.0
    lr_final: float = 1e-5
    max_skipped_updates: int = 20

    def __post_init__(self) -> None:
        checks.at_least_one(self, "max_skipped_updates")
        checks.one_of(self, "lr_schedule", tuple(SCHEDULES))
        checks.not_negative(self, "lr_final")
        start = self.lr_decay_start
        if not (0.0 <= start < 1.0 or 1.0 < start < math.inf):
            raise ConfigError(
                f"alg.lr_decay_start={start}; it must be a share of the run in [0, 1), or a number of epochs "
                "above 1"
            )

    def decay(self, epoch: int, epochs: int) -> float:
        """Return the share of the way to ``lr_final`` that is gone after ``epoch`` of ``epochs``."""
        start = self.lr_decay_start if self.lr_decay_start < 1.0 else self.lr_decay_start / epochs
        if start >= 1.0:
            return 0.0
        return SCHEDULES[self.lr_schedule](max(epoch / epochs - start, 0.0) / (1.0 - start))


class Vector:
    """Parameters, moved into one vector of which they are views from then on; values and shapes stay.

    Args:
        parameters: at least one, all of one device and dtype.

    Attributes:
        values, gradient: the vectors; parameters show the gradient once ``take_gradients`` was called.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.values = nn.Parameter(torch.cat([p.detach().flatten() for p in self.parameters]))
        self.gradient = torch.zeros_like(self.values)
        sizes = [p.numel() * p.element_size() for p in self.parameters]
        self._offsets = list(itertools.accumulate(sizes, initial=0))[:-1]
        self.attach()

    @torch.no_grad()
    def attach(self) -> None:
        """Make the parameters views of the vector again where they are not: copies of modules are whole."""
        if not self._lie_in(self.values, self.parameters):
            for parameter, view in zip(self.parameters, self.split(self.values.detach()), strict=True):
                view.copy_(parameter)
                parameter.data = view

    def _lie_in(self, vector: Tensor, parts: Sequence[Tensor | None]) -> bool:
        """True if each of ``parts`` is the view of ``vector`` that ``split`` gives."""
        start = vector.data_ptr()
        pairs = zip(parts, self._offsets, strict=True)
        return all(part is not None and part.data_ptr() == start + offset for part, offset in pairs)

    def split(self, vector: Tensor) -> list[Tensor]:
        """Return the part of ``vector`` that belongs to each parameter, as a view of its shape."""
        parts = vector.split([p.numel() for p in self.parameters])
        return [part.view(p.shape) for part, p in zip(parts, self.parameters, strict=True)]

    def join(self, parts: Sequence[Tensor | None]) -> Tensor:
        """Return a vector of ``parts``, one for each parameter; None counts as zeros."""
        given = [torch.zeros_like(p) if part is None else part for part, p in zip(parts, self.parameters)]
        return torch.cat([part.to(self.values.device).flatten() for part in given])

    def take_gradients(self, gradients: list[Tensor]) -> None:
        """Put ``gradients``, one for each parameter, into the vector, and let the parameters show them."""
        if not self._lie_in(self.gradient, [p.grad for p in self.parameters]):
            for parameter, view in zip(self.parameters, self.split(self.gradient), strict=True):
                parameter.grad = view
        torch._foreach_copy_([p.grad for p in self.parameters if p.grad is not None], gradients)
        self.values.grad = self.gradient


@torch.no_grad()
def follow(slow: Vector, fast: Vector, rate: float) -> None:
    """Move every parameter of ``slow`` the share ``rate`` of the way to its counterpart in ``fast``."""
    slow.attach()
    fast.attach()
    slow.values.lerp_(fast.values, rate)


class Updater:
    """Adam with gradient clipping for one group of parameters.

    Args:
        name: appears in error messages.
        parameters: what to optimise.
        lr: initial learning rate.
        betas: Adam's decay rates.
        max_norm: gradient norm above which gradients are scaled down.
        max_skipped: non-finite steps in a row before ``check_finite`` raises.
        slow: those of the parameters that learn at ``slow_scale`` times the rate.
        slow_scale: see ``slow``.
        decays: the rate follows the run's schedule (``decay_lr``).
        ranks: the processes that take every step together, by the sum of their gradients.
    """

    def __init__(
        self,
        name: str,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float],
        max_norm: float,
        max_skipped: int,
        slow: Iterable[nn.Parameter] = (),
        slow_scale: float = 1.0,
        decays: bool = True,
        ranks: Ranks = ALONE,
    ) -> None:
        self.name = name
        self.ranks = ranks
        self.decays = decays
        self.initial_lr = lr
        self.parameters = list(parameters)
        self.max_norm = max_norm
        self.max_skipped = max_skipped
        slow = list(slow)
        rest = set(self.parameters) - set(slow)
        groups = [[p for p in self.parameters if p in rest], slow]
        self.vectors = [Vector(group) for group in groups if group]
        scales = [scale for scale, group in zip((1.0, slow_scale), groups, strict=True) if group]
        self.optimizer = torch.optim.Adam(
            [{"params": [v.values], "scale": s} for v, s in zip(self.vectors, scales, strict=True)],
            lr=lr,
            betas=betas,
            fused=True,
        )
        self.set_lr(lr)
        device = self.parameters[0].device
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        self.skipped_in_row = torch.zeros((), dtype=torch.int64, device=device)

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the next steps."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["scale"]

    def decay_lr(self, share: float, final: float) -> float:
        """Set the rate ``share`` of the way from the initial one down to ``final``, and return it."""
        lr = self.initial_lr + share * (min(final, self.initial_lr) - self.initial_lr)
        self.set_lr(lr)
        return lr

    def step(self, loss: Tensor) -> Tensor:
        """Back-propagate ``loss`` and update; returns the gradient norm before clipping (detached scalar)."""
        return self.step_over((loss,))

    def step_over(self, losses: Iterable[Tensor]) -> Tensor:
        """Update by the gradient of the sum of ``losses``, of which one is kept in memory at a time."""
        parameters = [p for vector in self.vectors for p in vector.parameters]
        gradients: list[Tensor] = []
        for loss in losses:
            found = list(torch.autograd.grad(loss, parameters, materialize_grads=True))
            gradients = list(torch._foreach_add(gradients, found)) if gradients else found
        for vector in self.vectors:
            vector.attach()
            vector.take_gradients([gradients.pop(0) for _ in vector.parameters])
            self.ranks.sum(vector.gradient)
        norms = [torch.linalg.vector_norm(vector.gradient) for vector in self.vectors]
        norm: Tensor = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
        bad = ~torch.isfinite(norm)
        self.skipped += bad
        self.skipped_in_row.add_(1).mul_(bad)
        self.optimizer.grad_scale = (norm / self.max_norm).clamp(min=1.0)  # type: ignore[attr-defined]
        self.optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        self.optimizer.step()
        return norm

    def check_finite(self, in_row: int) -> None:
        """Raise NonFiniteError if ``in_row``, the value of ``skipped_in_row``, is ``max_skipped`` or more."""
        if in_row >= self.max_skipped:
            raise NonFiniteError(
                f"the {self.name} gradient was not finite in {in_row} updates in a row "
                f"(allowed: fewer than {self.max_skipped}); lower its learning rate or check the rewards"
            )

    def state_dict(self) -> dict[str, object]:
        """Optimiser moments and skip counters, in the form of an optimiser of the single parameters."""
        state: dict[int, dict[str, Tensor]] = {}
        groups: list[dict[str, Any]] = []
        for vector, group in zip(self.vectors, self.optimizer.param_groups, strict=True):
            indices = list(range(len(state), len(state) + len(vector.parameters)))
            groups.append({**group, "params": indices})
            found = self.optimizer.state.get(vector.values, {})
            moments = {key: vector.split(found[key]) for key in MOMENTS if key in found}
            for place, index in enumerate(indices):
                state[index] = {key: parts[place] for key, parts in moments.items()}
                if found:
                    state[index]["step"] = found["step"].clone()
        taken = {index: entry for index, entry in state.items() if entry}
        return {
            "optimizer": {"state": taken, "param_groups": groups},
            "skipped": self.skipped.clone(),
            "skipped_in_row": self.skipped_in_row.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the moments and counters of ``state``; rates and betas stay the configured ones.

        Raises:
            ValueError: it was saved with other parameters.
        """
        entries, groups = state["optimizer"]["state"], state["optimizer"]["param_groups"]
        saved = [len(group["params"]) for group in groups]
        if saved != (own := [len(vector.parameters) for vector in self.vectors]):
            raise ValueError(f"the {self.name} optimiser was saved with {saved} parameters, not {own}")
        for vector, group in zip(self.vectors, groups, strict=True):
            found = [entries.get(index, {}) for index in group["params"]]
            steps = [entry["step"] for entry in found if entry]
            if not steps:
                self.optimizer.state.pop(vector.values, None)
                continue
            own_state = {key: vector.join([entry.get(key) for entry in found]) for key in MOMENTS}
            step = torch.stack(steps).max().to(vector.values)
            self.optimizer.state[vector.values] = {"step": step, **own_state}
        self.skipped.copy_(state["skipped"])
        self.skipped_in_row.copy_(state["skipped_in_row"])
