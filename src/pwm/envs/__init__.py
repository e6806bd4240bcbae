"""Batched environments. All modules here but ``base`` and ``task_table`` are environment families."""
