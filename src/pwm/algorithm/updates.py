"""One optimiser step: gradient clipping and the non-finite policy, without a host synchronisation.

A step whose gradient norm is not finite is skipped and counted; ``check_finite`` raises once too many
were skipped in a row. Clipping and skipping ride on the ``grad_scale`` and ``found_inf`` inputs of
torch's fused Adam, so gradients are scaled inside the update kernel. ``follow`` moves slow copies behind.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pwm.errors import NonFiniteError


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
        weight_decay: float = 0.0,
    ) -> None:
        self.name = name
        self.parameters = list(parameters)
        self.max_norm = max_norm
        self.max_skipped = max_skipped
        slow = list(slow)
        rest = set(self.parameters) - set(slow)
        groups = [
            {"params": [p for p in self.parameters if p in rest], "scale": 1.0},
            {"params": slow, "scale": slow_scale},
        ]
        self.optimizer = torch.optim.AdamW(
            [g for g in groups if g["params"]], lr=lr, betas=betas, fused=True, weight_decay=weight_decay
        )
        self.set_lr(lr)
        device = self.parameters[0].device
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        self.skipped_in_row = torch.zeros((), dtype=torch.int64, device=device)

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of the next steps."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["scale"]

    def step(self, loss: Tensor) -> Tensor:
        """Back-propagate ``loss`` and update; returns the gradient norm before clipping (detached scalar)."""
        self.optimizer.zero_grad(set_to_none=True)
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

    def load_state_dict(self, state: dict) -> None:
        """Continue from the moments and counters of ``state``; rates and betas stay the configured ones."""
        groups = self.optimizer.param_groups
        configured = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        self.optimizer.load_state_dict(state["optimizer"])
        # torch restores what the optimiser was saved with; a forced resume may have changed it.
        for group, values in zip(self.optimizer.param_groups, configured, strict=True):
            group.update(values)
        self.skipped.copy_(state["skipped"])
        self.skipped_in_row.copy_(state["skipped_in_row"])
