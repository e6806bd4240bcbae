"""Saved policies and world models: written, found, read, started from, evaluated."""
