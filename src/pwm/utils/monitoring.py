"""What is shown and logged while training, from ``pwm.experiment``."""

from pwm.experiment.gradients import compute_gradient_stats
from pwm.experiment.monitoring import TrainingMonitor
from pwm.experiment.wandb_logger import WandBLogger

__all__ = ["TrainingMonitor", "WandBLogger", "compute_gradient_stats"]
