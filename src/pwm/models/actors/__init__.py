"""Policies on latents; every module except ``base`` is one policy."""
