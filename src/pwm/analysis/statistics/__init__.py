"""Statistics over training runs: numbers in, numbers out."""
