"""One optimiser step: gradient clipping and the non-finite policy, without a host synchronisation.

A step whose gradient norm is not finite is skipped and counted; ``check_finite`` raises once too many
were skipped in a row. Clipping and skipping ride on the ``grad_scale`` and ``found_inf`` inputs of
torch's fused Adam, so gradients are scaled inside the update kernel. ``follow`` moves slow copies behind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pwm import checks
from pwm.errors import ConfigError, NonFiniteError

# Share of the decay that is done, from the share of its time that has passed.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda passed: passed,
    "cosine": lambda passed: 0.5 - 0.5 * math.cos(math.pi * passed),
    "constant": lambda passed: 0.0,
}


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


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, rate: float) -> None:
    """Move every parameter of ``slow`` the share ``rate`` of the way to its counterpart in ``fast``."""
    torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), rate)


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
    ) -> None:
        self.name = name
        self.decays = decays
        self.initial_lr = lr
        self.parameters = list(parameters)
        self.max_norm = max_norm
        self.max_skipped = max_skipped
        slow = list(slow)
        rest = set(self.parameters) - set(slow)
        groups = [
            {"params": [p for p in self.parameters if p in rest], "scale": 1.0},
            {"params": slow, "scale": slow_scale},
        ]
        self.optimizer = torch.optim.Adam([g for g in groups if g["params"]], lr=lr, betas=betas, fused=True)
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
        self.optimizer.zero_grad(set_to_none=True)
        for loss in losses:
            loss.backward(inputs=self.parameters)
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        bad = ~torch.isfinite(norm)
        self.skipped += bad
        self.skipped_in_row.add_(1).mul_(bad)
        self.optimizer.grad_scale = (norm / self.max_norm).clamp(min=1.0)  # type: ignore[attr-defined]
        self.optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        self.optimizer.step()
        return norm

    def check_finite(self) -> None:
        """Raise NonFiniteError if the last ``max_skipped`` steps were all skipped (synchronises the host)."""
        in_row = int(self.skipped_in_row)
        if in_row >= self.max_skipped:
            raise NonFiniteError(
                f"the {self.name} gradient was not finite in {in_row} updates in a row "
                f"(allowed: fewer than {self.max_skipped}); lower its learning rate or check the rewards"
            )

    def state_dict(self) -> dict[str, object]:
        """Optimiser moments and skip counters."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "skipped": self.skipped.clone(),
            "skipped_in_row": self.skipped_in_row.clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the moments and counters of ``state``; rates and betas stay the configured ones."""
        groups = self.optimizer.param_groups
        configured = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        self.optimizer.load_state_dict(state["optimizer"])
        # torch restores what the optimiser was saved with; a forced resume may have changed it.
        for group, values in zip(self.optimizer.param_groups, configured, strict=True):
            group.update(values)
        self.skipped.copy_(state["skipped"])
        self.skipped_in_row.copy_(state["skipped_in_row"])
