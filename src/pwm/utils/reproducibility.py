"""Seeds, configurations and data that can be told apart, with the names of the original."""

from pwm.configuration.config import ExperimentConfig
from pwm.data.dataset_verifier import DatasetVerifier
from pwm.training.seeding import set_seed

__all__ = ["DatasetVerifier", "ExperimentConfig", "set_seed"]
