"""One run: its folder, state, provenance, and the root that puts it together."""
