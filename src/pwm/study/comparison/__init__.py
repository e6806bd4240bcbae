"""Arms that are compared: differences, statistics, verdicts, tables, pictures."""
