"""A graph's layers put back into the module that it was traced from: see `apply_to`."""

from compressc.transplant.transplanting import apply_to, fitted

__all__ = ["apply_to", "fitted"]
