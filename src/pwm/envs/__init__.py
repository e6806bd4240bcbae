"""Batched environments. Every module of this folder except ``base`` is one environment family."""
