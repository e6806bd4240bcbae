"""Signal-to-noise ratio of gradients, from ``pwm.analysis.model_quality.esnr``."""

from pwm.analysis.model_quality.esnr import ESNRTracker, compute_esnr, compute_esnr_db

__all__ = ["ESNRTracker", "compute_esnr", "compute_esnr_db"]
