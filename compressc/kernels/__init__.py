"""Fast kernels for what a compressor computes itself; `dispatch` chooses, callers never do.

Importing this package imports torch and, where it was built, the native module; never triton.
"""

from compressc.kernels import lowrank_ops
from compressc.kernels.linear_kl import linear_softmax_kl
from compressc.kernels.losses import softmax_kl, softmax_kl_ce
from compressc.kernels.lowrank import int8_lowrank_linear, lowrank_linear, quantize_rows
from compressc.kernels.problem import TopK

__all__ = [
    "TopK",
    "int8_lowrank_linear",
    "linear_softmax_kl",
    "lowrank_linear",
    "lowrank_ops",
    "quantize_rows",
    "softmax_kl",
    "softmax_kl_ce",
]
