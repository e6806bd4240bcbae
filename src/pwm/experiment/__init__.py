"""Configuration, run folders, checkpoints, loggers and provenance: everything around the algorithm."""
