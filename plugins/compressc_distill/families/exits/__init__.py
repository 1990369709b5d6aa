"""Exits inside a model, which its own output teaches: the pass `exits`."""
