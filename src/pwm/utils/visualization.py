"""Pictures of runs, from ``pwm.analysis.plots.visualization``."""

from pwm.analysis.plots.visualization import TrainingVisualizer, plot_comparison

__all__ = ["TrainingVisualizer", "plot_comparison"]
