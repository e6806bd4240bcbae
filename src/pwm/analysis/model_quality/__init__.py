"""How well a world model and a critic predict what really happens, and how smooth they are."""
