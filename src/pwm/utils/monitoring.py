"""What is shown and logged while training, with the names of the original."""

from pwm.logging.gradients import compute_gradient_stats
from pwm.logging.monitoring import TrainingMonitor
from pwm.logging.wandb_logger import WandBLogger

__all__ = ["TrainingMonitor", "WandBLogger", "compute_gradient_stats"]
