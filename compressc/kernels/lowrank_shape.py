"""For what a choice between ways to multiply is made, and where one may be made at all."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Shape(NamedTuple):
    """What a choice is made for, on a CPU with `rows` rounded up to a power of two."""

    rows: int
    inner: int
    rank: int
    out: int
    dtype: torch.dtype
    threads: int


def plain_inference(x: Tensor, v: Tensor, u: Tensor, bias: Tensor | None) -> bool:
    """Whether nobody wants a gradient, intercepts the tensors or demands determinism."""
    if torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (x, v, u, bias)
    ):
        return False
    if torch._C._len_torch_dispatch_stack() or torch._C._are_functorch_transforms_active():
        return False
    return not torch.are_deterministic_algorithms_enabled()
