"""Trainers: each module or folder is one, found by its name (``alg.trainer``)."""
