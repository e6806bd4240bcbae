"""Numbers, lists and scales as text for people; what is unknown (None or NaN) is a dash."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from pwm.analysis.statistics.estimates import Estimate, Summary

DASH = "–"
MINUS = "−"
# Below it there are more zeros behind the point than the eye counts.
SMALL = 1e-5


def number(value: float | None, like: float | None = None, sign: bool = False) -> str:
    """``value`` with about three digits, or as many decimals as ``like`` gets; ``sign`` also shows a plus.

    Where decimals would be too many to count, it is a power of ten, for example ``2.5e-07``.
    """
    if value is None or not math.isfinite(value):
        return DASH
    form, size = "+" if sign else "", value if like is None else like
    small = 0 < abs(size) < SMALL
    text = f"{value:{form}.2g}" if small else f"{value:{form},.{_decimals(size)}f}"
    # A value that is rounded to zero has no sign.
    return text.replace("-", MINUS) if float(text.replace(",", "")) else text.lstrip("-+")


def plus_minus(summary: Summary) -> str:
    """For example ``2,376 ± 85``; without a spread for one seed."""
    mean, std = summary.mean.value, summary.std
    widest = mean if math.isnan(std) else max(abs(mean), std)
    return number(mean, widest) if math.isnan(std) else f"{number(mean, widest)} ± {number(std, widest)}"


def mean_and_std(values: Sequence[float]) -> str:
    """Mean and standard deviation of values, of which there may be one or none."""
    if not values:
        return DASH
    mean = float(np.mean(values))
    std = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return plus_minus(Summary(len(values), Estimate(mean, math.nan, math.nan), std))


def interval(estimate: Estimate) -> str:
    """For example ``50 to 190``."""
    widest = max(abs(estimate.low), abs(estimate.high))
    return f"{number(estimate.low, widest)} to {number(estimate.high, widest)}"


def with_interval(estimate: Estimate, sign: bool = False) -> str:
    """For example ``120 [50, 190]``."""
    if math.isnan(estimate.low):
        return number(estimate.value, sign=sign)
    widest = max(abs(estimate.value), abs(estimate.low), abs(estimate.high))
    low, high = number(estimate.low, widest), number(estimate.high, widest)
    return f"{number(estimate.value, widest, sign)} [{low}, {high}]"


def p_value(value: float) -> str:
    """For example ``0.031``."""
    if math.isnan(value):
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def percent(value: float, decimals: int = 1) -> str:
    """``value`` (in percent) with its sign."""
    return f"{value:+,.{decimals}f} %".replace("-", MINUS) if math.isfinite(value) else DASH


def share(value: float) -> str:
    """A share as a whole percentage, for example ``2 %``."""
    return f"{100 * value:.0f} %"


def minutes(seconds: Sequence[float]) -> str:
    """Mean and standard deviation of times, in minutes."""
    return mean_and_std([value / 60 for value in seconds])


def scale_in_words(scale: Mapping[str, tuple[float, float]], tasks: Collection[str]) -> str:
    """Describe the common scale of the tasks (``StudyComparison.scale``) and the tasks it leaves out."""
    if not scale:
        return (
            "There is no common scale: no arm is shown to be above the floor on any task, or none is known."
        )
    ends = "; ".join(
        f"{task} {number(low)} and {number(high)}" for task, (low, high) in sorted(scale.items())
    )
    text = (
        "Returns of different tasks are averaged on a common scale, on which 0 is the floor and 1 the mean "
        f"of the best arm: {ends}."
    )
    if left_out := sorted(set(tasks) - set(scale)):
        text += f" Left out, because no arm is shown to be above the floor there: {listing(left_out)}."
    return text


def listing(words: Iterable[str], empty: str = "none") -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *first, last = list(words) or [empty]
    return f"{', '.join(first)} and {last}" if first else last


def count(number_of: int, singular: str) -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{number_of} {singular}" if number_of == 1 else f"{number_of} {singular}s"


def counts(numbers: Iterable[int], singular: str) -> str:
    """``3 seeds``, or ``2 to 3 seeds``."""
    low, high = min(found := list(numbers)), max(found)
    return count(low, singular) if low == high else f"{low} to {high} {singular}s"


def _decimals(value: float) -> int:
    size = abs(value)
    if size >= 999.5 or not size:
        return 0
    if size >= 9.995:
        return 1
    if size >= 0.0995:
        return 2
    return 1 - math.floor(math.log10(size))
