"""The original's module names, for code written against them; every name lives where it is imported from."""
