"""Low-rank factorization of wide layers."""

from compressc_lowrank.lowrank import LowRank

__all__ = ["LowRank"]
