"""Mixtures of experts: where they are, what they are worth, and which go."""
