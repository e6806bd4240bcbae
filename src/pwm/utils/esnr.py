"""Signal-to-noise ratio of gradients, from ``pwm.analysis.esnr``."""

from pwm.analysis.esnr import ESNRTracker, compute_esnr, compute_esnr_db

__all__ = ["ESNRTracker", "compute_esnr", "compute_esnr_db"]
