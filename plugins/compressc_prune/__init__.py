"""Structured pruning: remove whole channels, neurons and attention heads."""

from compressc_prune.prune import Prune

__all__ = ["Prune"]
