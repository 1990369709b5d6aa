"""Fast kernels for what a compressor computes itself; `dispatch` chooses, callers never do.

Importing this package imports torch and, where it was built, the native module; never triton.
"""

import compressc.kernels.lowrank.operators  # noqa: F401  (registers torch.ops.compressc.*)
from compressc.kernels.losses.linear_kl import linear_softmax_kl
from compressc.kernels.losses.problem import TopK
from compressc.kernels.losses.softmax_kl import softmax_kl, softmax_kl_ce
from compressc.kernels.lowrank.linear import int8_lowrank_linear, lowrank_linear, quantize_rows

__all__ = [
    "TopK",
    "int8_lowrank_linear",
    "linear_softmax_kl",
    "lowrank_linear",
    "quantize_rows",
    "softmax_kl",
    "softmax_kl_ce",
]
