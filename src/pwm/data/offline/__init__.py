"""Offline data in a folder of mapped shards: the format, writing, checking, sampling of windows."""
