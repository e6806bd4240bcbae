"""Seeds, configurations and data that can be told apart, from ``pwm.experiment``."""

from pwm.experiment.config import ExperimentConfig
from pwm.experiment.dataset_verifier import DatasetVerifier
from pwm.experiment.reproducibility import set_seed

__all__ = ["DatasetVerifier", "ExperimentConfig", "set_seed"]
