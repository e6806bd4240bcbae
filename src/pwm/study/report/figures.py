"""Figures of a report, as files in memory."""

from __future__ import annotations

import io

import matplotlib as mpl
from matplotlib.figure import Figure

from pwm.study.comparison.arm_comparison import StudyComparison
from pwm.study.comparison.arms import steps_in_words
from pwm.study.comparison.plots import draw_study
from pwm.study.comparison.wording import listing
from pwm.study.report.document import Picture

CSS_PIXELS_PER_INCH = 96
# Bytes. Curves of many thousand points are larger as vectors than as pixels, and no sharper.
LARGE = 1_000_000
DPI = 144
# Caption, and what it shows for those who cannot see it.
TEXTS = {
    "returns_by_steps": (
        "Evaluated return over {steps}.",
        "Learning curves over {steps} of {arms} on {tasks}.",
    ),
    "returns_by_time": (
        "Evaluated return over wall time, which whatever else ran on the machine makes longer.",
        "Learning curves over wall time of {arms} on {tasks}.",
    ),
    "final_returns": (
        "Return of the final policies on held-out seeds, as in the tables.",
        "Bars of the final policies' held-out return of {arms} on {tasks}.",
    ),
    "performance_profile": (
        "Share of the runs of all tasks whose final policy is above a normalised return s on held-out seeds, "
        "on the scale of the table.",
        "Performance profiles of {arms} on {tasks}.",
    ),
    "gradient_norms": (
        "Gradient norms before clipping.",
        "Histograms of the gradient norms of world model, actor and critic of {arms} on {tasks}.",
    ),
    "losses": (
        "Losses and open-loop latent errors during training.",
        "Curves of losses and latent errors of {arms} on {tasks}.",
    ),
}
FIGURE_NAMES = tuple(TEXTS)


def draw_figures(study: StudyComparison) -> dict[str, Picture]:
    """All figures by name; without those that the runs at hand do not allow.

    Raises:
        DataError: metrics of a run cannot be read.
    """
    words = {
        "arms": listing(arm.label for arm in study.arms),
        "tasks": listing(study.tasks),
        "steps": steps_in_words(study.arms),
    }
    return {
        name: picture(name, figure, *(text.format(**words) for text in TEXTS[name]))
        for name, figure in draw_study(study).items()
    }


def picture(name: str, figure: Figure, caption: str, alt: str) -> Picture:
    """``figure`` as SVG, or as PNG where that would be too large; it depends on what is drawn alone."""
    svg, png = io.BytesIO(), io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    content, suffix = svg.getvalue(), "svg"
    if len(content) > LARGE:
        figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
        content, suffix = min((content, suffix), (png.getvalue(), "png"), key=lambda file: len(file[0]))
    width, height = (round(inches * CSS_PIXELS_PER_INCH) for inches in figure.get_size_inches())
    return Picture(name, caption, alt, content, suffix, width, height)
