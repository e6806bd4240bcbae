"""Measurements on trained or training agents."""
