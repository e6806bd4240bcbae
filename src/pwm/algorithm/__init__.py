"""The PWM training rule: tensors and modules in, tensors out. No environment, file, clock or logger."""
