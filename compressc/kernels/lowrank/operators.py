"""`torch.ops.compressc.lowrank_linear` and `.int8_lowrank_linear`.

The Python functions of `linear.py` are for use in models: traced, `lowrank_linear` becomes two
linear layers that every back end knows.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compressc.kernels import dispatch, native
from compressc.kernels.losses.operators import LIBRARY
from compressc.kernels.lowrank import linear

#: Above as many rows, weights are widened once and multiplied by the matrix library.
INT8_ROWS = 16


def _int8_lowrank_linear(  # noqa: PLR0913 - the schema's arguments
    x: Tensor, v: Tensor, v_scale: Tensor, u: Tensor, u_scale: Tensor, bias: Tensor | None = None
) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    kind = dispatch.choose("int8_lowrank_linear", x.device, x.dtype).implementation
    if kind == "native" and rows.shape[0] <= INT8_ROWS:
        thin = native.int8_linear(rows.float(), v, v_scale, None)
        y = native.int8_linear(thin, u, u_scale, bias).to(x.dtype)
    else:
        wide = None if bias is None else bias.to(x.dtype)
        y = F.linear(F.linear(rows, _widen(v, v_scale, x)), _widen(u, u_scale, x), wide)
    return y.reshape(*x.shape[:-1], u.shape[0])


def _widen(weight: Tensor, scale: Tensor, x: Tensor) -> Tensor:
    return (weight * scale.unsqueeze(-1)).to(x.dtype)


def _fake(x: Tensor, v: Tensor, v_scale: Tensor, u: Tensor, *_: Any) -> Tensor:
    return x.new_empty(*x.shape[:-1], u.shape[0])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, v, v_scale, u, u_scale, bias = inputs
    ctx.save_for_backward(v, v_scale, u, u_scale)
    ctx.has_bias = bias is not None


def _backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
    v, v_scale, u, u_scale = ctx.saved_tensors
    grad = upstream @ _widen(u, u_scale, upstream) @ _widen(v, v_scale, upstream)
    bias = upstream.flatten(0, -2).sum(0) if ctx.has_bias else None
    return grad, None, None, None, None, bias


_TAGS = (torch.Tag.pt2_compliant_tag,)
LIBRARY.define(
    "lowrank_linear(Tensor x, Tensor v, Tensor u, Tensor? bias=None) -> Tensor", tags=_TAGS
)
LIBRARY.impl("lowrank_linear", linear.lowrank_linear, "CompositeImplicitAutograd")
LIBRARY.define(
    "int8_lowrank_linear(Tensor x, Tensor v, Tensor v_scale, Tensor u, Tensor u_scale, "
    "Tensor? bias=None) -> Tensor",
    tags=_TAGS,
)
LIBRARY.impl("int8_lowrank_linear", _int8_lowrank_linear, "CompositeExplicitAutograd")
torch.library.register_fake("compressc::int8_lowrank_linear", _fake, lib=LIBRARY)
torch.library.register_autograd(
    "compressc::int8_lowrank_linear", _backward, setup_context=_setup, lib=LIBRARY
)
