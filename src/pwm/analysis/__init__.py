"""Measurements on runs and on trained agents."""
