"""Fast kernels for what a compressor computes itself; `dispatch` chooses, callers never do.

Importing this package imports torch and, where it was built, the native module; never triton.
"""

from compressc.kernels.losses import softmax_kl, softmax_kl_ce
from compressc.kernels.problem import TopK

__all__ = ["TopK", "softmax_kl", "softmax_kl_ce"]
