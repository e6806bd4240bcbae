"""Pictures of runs, from ``pwm.analysis.visualization``."""

from pwm.analysis.visualization import TrainingVisualizer, plot_comparison

__all__ = ["TrainingVisualizer", "plot_comparison"]
