"""Offline data in a folder of memory-mapped shards: the format, writing, checking, and sampling of windows."""
