"""Hydra groups. Files hold overrides only; defaults are those of the options dataclasses."""
