"""Pruning: whole channels, neurons and attention heads go, or single weights become zero."""

from compressc_prune.prune import Prune
from compressc_prune.sparsify import Sparsify

__all__ = ["Prune", "Sparsify"]
