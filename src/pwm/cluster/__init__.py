"""Runs as jobs of a SLURM cluster: profiles, checks, scripts, submissions, and what became of them."""
