"""The summary of ``pwm diagnose`` in words, from its numbers alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pwm.numbers import readable

Numbers = Mapping[str, Any]

WIDTH = 18
COLUMN = 9


def diagnosis_in_words(numbers: Numbers) -> str:
    """Text about everything measured."""
    episodes = numbers["episodes"]
    mean, std = readable(episodes["mean"]), readable(episodes["std"])
    epoch = numbers["progress"].get("epoch")
    when = "" if epoch is None else f", epoch {epoch:.0f}"
    lines = [
        f"{numbers['task']}  {numbers['algorithm']} ({numbers['dynamics']})  "
        f"seed {numbers['training_seed']}{when}: {numbers['policy']}",
        f"{episodes['episodes']} real episodes: return {mean} +- {std}, {episodes['mean_length']:.0f} steps",
    ]
    for name, section in SECTIONS.items():
        found = numbers[name]
        if found is None:
            lines += ["", f"{section.title}: {section.missing}"]
        else:
            lines += ["", section.title, *section.lines(found)]
    return "\n".join(lines)


def _open_loop(found: Numbers) -> list[str]:
    at = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= found["steps"]]
    groups = found["groups"]
    lines = [
        f"  from {found['windows']} starts, among the {found['share']:.0%} of states that are followed by "
        f"{found['steps']} more recorded steps",
        _row("steps", at, "d"),
    ]
    for label, key in (
        ("latent", "latent_error"),
        ("  over variance", "latent_over_variance"),
        ("reward", "reward_error"),
        ("  over variance", "reward_over_variance"),
    ):
        lines.append(_row(label, [found[key][k - 1] for k in at], ".3g"))
    if groups is None:
        return lines
    for label, key in (("group sum, mean", "mean"), ("  smallest", "min"), ("  largest", "max")):
        lines.append(_row(label, [groups[key][k] for k in at], ".3f"))
    return [*lines, _row("entries below 0", [groups["negative"][k] for k in at], ".1%")]


def _return_gap(found: Numbers) -> list[str]:
    rewards = found["rewards"]
    at = [k for k in (1, 2, 4, 8, 16, 32, 64) if k <= len(rewards["imagined"])]
    return [
        _row("steps", at, "d"),
        _row("imagined reward", [rewards["imagined"][k - 1] for k in at], ".4g"),
        _row("real reward", [rewards["realised"][k - 1] for k in at], ".4g"),
        f"  next {found['horizon']['steps']} steps: {_compared(found['horizon'])}",
        f"  actor's objective (with values): {_compared(found['objective'])}",
    ]


def _calibration(found: Numbers) -> list[str]:
    bins = found["bins"]
    return [
        f"  {_compared(found)}",
        _row("predicted, binned", [group["predicted"] for group in bins], ".4g"),
        _row("realised", [group["realised"] for group in bins], ".4g"),
    ]


def _smoothness(found: Numbers) -> list[str]:
    latent, action = found["latent"], found["action"]
    lines = [
        f"  dz'/dz: gain {_spread(latent['gain'])}, largest singular value {_spread(latent['spectral'])}",
        f"  dz'/da: largest singular value {_spread(action['spectral'])}, "
        f"where latents change by {found['change']:.3g} per step",
    ]
    for label, key in (("recorded actions", "open_loop"), ("policy's actions", "closed_loop")):
        composed = found[key]
        at = composed["spectral"]["at"]
        growth = "" if composed["growth"] is None else f", factor per step {composed['growth']:.3f}"
        lines += [
            f"  composed, {label}{growth}",
            _row("steps", at, "d"),
            _row("gain, median", [composed["gain"]["median"][k - 1] for k in at], ".3g"),
            _row("  95 % of states", [composed["gain"]["p95"][k - 1] for k in at], ".3g"),
            _row("largest, median", composed["spectral"]["median"], ".3g"),
            _row("  95 % of states", composed["spectral"]["p95"], ".3g"),
        ]
    return lines


def _integration(found: Numbers) -> list[str]:
    own = found["own"]
    methods = found["methods"]
    lines = [
        "  from states anywhere in the episodes: one step scores otherwise than under open-loop error",
        f"  the model's own, order {own['order']}, K={own['substeps']}: integration error "
        f"{_number(own['error'])}, one-step prediction error {_number(found['own_prediction'])}",
        f"  exact solution: one-step prediction error {_number(found['reference_prediction'])}",
        _row("substeps K", next(iter(methods.values()))["substeps"], "d"),
    ]
    for name, method in methods.items():
        order = "not measurable" if method["order"] is None else f"{method['order']:.2f}"
        lines.append(_row(f"{name}, error", method["error"], ".2g") + f"   order {order}")
        lines.append(_row("  prediction", found["prediction"][name], ".3g"))
    return lines


def _actor_gradient(found: Numbers) -> list[str]:
    return [
        f"  of {found['start_states']} start states, clipped at {_number(found['clipped_at'])}: "
        f"bias {_number(found['bias'])} (at most {_number(found['bias_bound'])}), "
        f"direction {_number(found['direction'])}",
        f"  variance of one gradient {_number(found['variance'])}, its cosine {_number(found['cosine'])}, "
        f"length of the reference {_number(found['reference_norm'])}",
    ]


class DiagnosisPart(NamedTuple):
    """Text of a section: ``title``, what writes its ``lines``, and why it may be ``missing``."""

    title: str
    lines: Callable[[Numbers], list[str]]
    missing: str


SECTIONS = {
    "open_loop": DiagnosisPart(
        "Open-loop error (squared error / squared change; predicting no change scores 1)",
        _open_loop,
        "the episodes are too short",
    ),
    "return_gap": DiagnosisPart(
        "Return in imagination and in reality", _return_gap, "the episodes are too short"
    ),
    "value_calibration": DiagnosisPart("Value, and the discounted return that followed", _calibration, ""),
    "smoothness": DiagnosisPart(
        "Jacobians: median [95 % of states]; gain is the root mean square singular value",
        _smoothness,
        "the episodes are too short",
    ),
    "integration": DiagnosisPart(
        "Integration over flow time (squared error / squared change)",
        _integration,
        "not applicable, these dynamics integrate nothing",
    ),
    "actor_gradient": DiagnosisPart(
        "Actor's gradient against a large batch (bias and variance relative to the large batch's)",
        _actor_gradient,
        "",
    ),
}


def _compared(found: Numbers) -> str:
    relative = found["relative_bias"]
    share = "" if relative is None else f", bias {relative:+.0%}"
    return (
        f"predicted {found['predicted']:.4g}, realised {found['realised']:.4g}{share}, "
        f"slope {_number(found['slope'])}, correlation {_number(found['correlation'])}, "
        f"{found['states']} states"
    )


def _spread(values: Numbers) -> str:
    return f"{_number(values['median'])} [{_number(values['p95'])}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _row(label: str, values: Sequence[float | None], form: str) -> str:
    """One line of a table; None is a dash."""
    cells = ("-" if value is None else format(value, form) for value in values)
    return f"  {label:<{WIDTH}}" + "".join(cell.rjust(COLUMN) for cell in cells)
