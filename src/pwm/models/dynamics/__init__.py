"""Latent dynamics models; every module except ``base`` is one model."""
