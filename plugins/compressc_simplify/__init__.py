"""Exact clean-up: the same function with fewer ops."""

from compressc_simplify.simplify import Simplify

__all__ = ["Simplify"]
