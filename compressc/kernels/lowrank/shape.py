"""For what a choice between ways to multiply is made, and where one may be made at all."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad


class Shape(NamedTuple):
    """What a choice is made for, on a CPU with `rows` rounded up to a power of two."""

    rows: int
    inner: int
    rank: int
    out: int
    dtype: torch.dtype
    threads: int


# Bound here, because these are asked on every call of every layer.
_grad_enabled = torch.is_grad_enabled
_dispatch_modes = torch._C._len_torch_dispatch_stack
_transforms = torch._C._are_functorch_transforms_active
_tracing_state = torch._C._get_tracing_state
_deterministic = torch._C._get_deterministic_algorithms
_autocast = torch.is_autocast_enabled


def plain_inference(x: Tensor, v: Tensor, u: Tensor, bias: Tensor | None) -> bool:
    """Whether nobody wants a gradient, intercepts or records the tensors or demands determinism."""
    if _grad_enabled() and (
        v.requires_grad
        or x.requires_grad
        or u.requires_grad
        or (bias is not None and bias.requires_grad)
    ):
        return False
    return not (
        _dispatch_modes()
        or _transforms()
        or _tracing_state() is not None
        or forward_ad._current_level >= 0
        or _deterministic()
        or _autocast("cuda" if x.is_cuda else "cpu")  # it would change the dtype
    )
