"""Training data: the batch record and the stores it comes from."""
