"""True if two world models are the same size, and the velocity-network width that makes them so.

A comparison of dynamics is fair at |P_candidate - P_baseline| / P_baseline <= 2 % over the world model, when
nothing but the width of the candidate's dynamics network was changed to get there.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from pwm.configuration.building import task_spec
from pwm.configuration.config import ExperimentConfig
from pwm.errors import ConfigError
from pwm.models.world_model import build_world_model

TOLERANCE = 0.02
# The part that a comparison of dynamics exchanges; the others must be the same in both models.
EXCHANGED = "dynamics"
PARTS = ("encoder", EXCHANGED, "reward", "termination", "task_embedding")

Shapes = dict[str, list[tuple[int, ...]]]


@dataclass(frozen=True)
class Parity:
    """Outcome of ``check_parity``.

    Attributes:
        baseline, candidate: parameters per part of the world model; both have the same keys.
        problems: what differs besides the width of the dynamics network, one phrase each.
        units: hidden widths of the candidate's dynamics that restore parity; None if the pair passes, or if
            no width makes it pass.
    """

    baseline: dict[str, int]
    candidate: dict[str, int]
    problems: list[str]
    units: list[int] | None

    @property
    def totals(self) -> tuple[int, int]:
        """Parameters of the whole world models, baseline first."""
        return sum(self.baseline.values()), sum(self.candidate.values())

    @property
    def difference(self) -> float:
        """(P_candidate - P_baseline) / P_baseline."""
        return _difference(*self.totals)

    @property
    def passed(self) -> bool:
        """The totals agree within ``TOLERANCE`` and nothing but the width of the dynamics differs."""
        return abs(self.difference) <= TOLERANCE and not self.problems

    @property
    def override(self) -> str | None:
        """Overrides that make the pair pass when added to the candidate."""
        return None if self.units is None else f"alg.dynamics.units=[{','.join(map(str, self.units))}]"

    def report(self) -> str:
        """Plain text: a row per part, the total, the verdict, and what to do about a failure."""
        lines = [f"{'parameters':16}{'baseline':>14}{'candidate':>14}{'difference':>14}{'relative':>11}"]
        rows = {name: (self.baseline[name], self.candidate[name]) for name in self.baseline}
        for name, (a, b) in {**rows, "total": self.totals}.items():
            relative = f"{_difference(a, b):+.2%}" if a else ("-" if b else "0.00%")
            lines.append(f"{name:16}{a:>14,}{b:>14,}{b - a:>+14,}{relative:>11}")
        verdict = "PASS" if self.passed else "FAIL"
        lines.append(f"{verdict}: {self.difference:+.3%}, allowed {TOLERANCE:.0%} of the world model")
        lines += [f"  {problem}; only the width of the dynamics may differ" for problem in self.problems]
        if self.override is not None:
            lines.append(f"  parity at: {self.override}")
        elif not self.passed:
            lines.append("  no width of the candidate's dynamics restores parity")
        return "\n".join(lines)


# By label of the candidate's arm and by task.
Parities = Mapping[str, Mapping[str, Parity]]


def check_parity(
    baseline: ExperimentConfig, candidate: ExperimentConfig, obs_dim: int, act_dim: int, n_tasks: int = 0
) -> Parity:
    """Compare the world models of two configurations; nothing is allocated.

    Args:
        baseline, candidate: the pair; the candidate's dynamics are the ones whose width is solved for.
        obs_dim, act_dim: widths of observations and actions.
        n_tasks: number of tasks of multi-task models; 0 for a single task.

    Raises:
        ConfigError: a width is smaller than 1.
    """
    if obs_dim < 1 or act_dim < 1:
        raise ConfigError(f"obs_dim={obs_dim} and act_dim={act_dim} must be at least 1")
    sizes = (obs_dim, act_dim, n_tasks)
    ours, theirs = _shapes(baseline, *sizes), _shapes(candidate, *sizes)
    # Parts that this table does not know are shown, too, so that no parameter is ever left out.
    names = [*PARTS, *sorted((ours.keys() | theirs.keys()) - set(PARTS))]
    names = [name for name in names if name in ours or name in theirs]
    others = [f"{name} differs" for name in names if name != EXCHANGED and ours.get(name) != theirs.get(name)]
    a, b = _units(baseline), _units(candidate)
    depth = [] if len(a) == len(b) else [f"dynamics have {len(a)} and {len(b)} hidden layers"]
    parity = Parity(
        {name: _count(ours.get(name, [])) for name in names},
        {name: _count(theirs.get(name, [])) for name in names},
        others + depth,
        None,
    )
    # A width cannot mend what is wrong elsewhere.
    if parity.passed or others:
        return parity
    return dataclasses.replace(parity, units=_solve_units(a, candidate, sizes, parity.totals[0]))


def task_sizes(config: ExperimentConfig) -> tuple[int, int]:
    """``(obs_dim, act_dim)`` of the configured environment, asked of the environment itself."""
    spec = task_spec(config)
    return spec.obs_dim, spec.act_dim


def with_units(config: ExperimentConfig, units: Sequence[int]) -> ExperimentConfig:
    """``config`` with other hidden widths of its dynamics network."""
    dynamics = dataclasses.replace(config.chosen["dynamics"], units=list(units))
    return dataclasses.replace(config, chosen={**config.chosen, "dynamics": dynamics})


def _solve_units(
    template: list[int], candidate: ExperimentConfig, sizes: tuple[int, int, int], target: int
) -> list[int] | None:
    """Widths in the proportions of ``template`` whose parameter count is the closest to ``target``.

    The count grows with the width, so the two widths around the target are found by bisection.
    """
    if not template or not hasattr(candidate.chosen["dynamics"], "units"):
        return None

    def scaled(width: int) -> list[int]:
        return [max(1, round(units * width / template[0])) for units in template]

    def total(width: int) -> int:
        return _total(with_units(candidate, scaled(width)), sizes)

    high = 1
    while total(high) < target:
        high *= 2
    above = bisect.bisect_left(range(high + 1), target, lo=1, key=total)
    best = min((max(above - 1, 1), above), key=lambda width: abs(total(width) - target))
    return scaled(best) if abs(_difference(target, total(best))) <= TOLERANCE else None


def _shapes(config: ExperimentConfig, obs_dim: int, act_dim: int, n_tasks: int) -> Shapes:
    """Shapes of all trainable parameters by part; on the meta device, which has no memory."""
    with torch.device("meta"), _NoValues():
        sizes, dynamics = config.alg.world_model, config.chosen["dynamics"]
        model = build_world_model(sizes, dynamics, obs_dim, act_dim, n_tasks)
    shapes: Shapes = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            shapes.setdefault(name.split(".")[0].removesuffix("_net"), []).append(tuple(parameter.shape))
    return shapes


class _NoValues(TorchFunctionMode):
    """Initialises nothing: shapes need no values, and torch would import a compiler to draw them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == nn.init.__name__:
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _total(config: ExperimentConfig, sizes: tuple[int, int, int]) -> int:
    return sum(_count(shapes) for shapes in _shapes(config, *sizes).values())


def _count(shapes: list[tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes)


def _difference(a: int, b: int) -> float:
    return (b - a) / a


def _units(config: ExperimentConfig) -> list[int]:
    dynamics: Any = config.chosen["dynamics"]
    return list(getattr(dynamics, "units", []))
