"""What a model and its training cost: parameters, operations, time, memory."""
