"""A page to look at all runs with, on this machine alone."""
