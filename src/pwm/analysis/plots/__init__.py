"""Pictures and films of one run."""
