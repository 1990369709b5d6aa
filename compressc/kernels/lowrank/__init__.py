"""The factored linear layer: which way to multiply, measured, and its int8 form."""
