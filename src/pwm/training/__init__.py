"""Training loops and the evaluator; services (files, logs, clocks) are passed in as hooks."""
