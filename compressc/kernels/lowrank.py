"""The factored linear layer: two thin products in place of a wide one.

On a CPU nothing is gained by fusing them (the product of rank r stays in cache anyway); what
differs is which library multiplies. `LINEAR` holds what was measured, `dispatch.table` shows it.
`lowrank_gpu.py` is about GPUs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from compressc.kernels import lowrank_gpu, reference
from compressc.kernels.lowrank_shape import Shape, plain_inference

#: oneDNN must be this much faster in the measurement to be chosen: less is noise.
_MARGIN = 0.9
_ROUNDS = 7
_SMALLEST = 1 << 20  # multiplications by v: below, calling oneDNN costs more than it saves


#: `Shape` -> (chosen, reason), as measured in this process.
LINEAR: dict[tuple[Any, ...], tuple[str, str]] = {}


def lowrank_linear(x: Tensor, v: Tensor, u: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ v.T @ u.T + bias`, by the faster library for this shape.

    The first call of a shape measures (a few milliseconds) and the process keeps the answer. Where
    a gradient is wanted, a trace is running or deterministic algorithms are demanded, it is two
    `F.linear`, so that training and exports do not depend on a measurement. Arguments as in
    `reference.lowrank_linear`.
    """
    # In the order of cost, because in a small layer every line here is felt; and under a trace the
    # sizes may be symbols, which nothing may look at.
    if torch.compiler.is_compiling() or type(x) is not Tensor:
        return F.linear(F.linear(x, v), u, bias)
    if x.is_cuda:
        return lowrank_gpu.lowrank_linear(x, v, u, bias)
    (rank, inner), size = v.shape, x.numel()
    if size * rank < _SMALLEST:
        return F.linear(F.linear(x, v), u, bias)
    bucket = 1 << (size // inner - 1).bit_length()
    key = (bucket, inner, rank, u.shape[0], x.dtype, torch.get_num_threads())
    chosen = LINEAR.get(key)
    if (chosen is not None and chosen[0] == "torch") or not _may_measure(x, v, u, bias):
        return F.linear(F.linear(x, v), u, bias)
    if chosen is None:
        chosen = _measure(Shape(*key), x, v, u, bias)
    return (_onednn if chosen[0] == "onednn" else reference.lowrank_linear)(x, v, u, bias)


def _may_measure(x: Tensor, v: Tensor, u: Tensor, bias: Tensor | None) -> bool:
    if x.device.type != "cpu" or _linear_pointwise() is None or not plain_inference(x, v, u, bias):
        return False
    one_type = x.dtype == v.dtype == u.dtype and (bias is None or bias.dtype == x.dtype)
    return one_type and x.dtype in (torch.float32, torch.bfloat16)


def _linear_pointwise() -> Any:
    """oneDNN's linear: a private operator of torch, so it may be absent in another version."""
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def _onednn(x: Tensor, v: Tensor, u: Tensor, bias: Tensor | None) -> Tensor:
    linear = _linear_pointwise()
    thin = linear(x, v, None, "none", [], "")
    return cast("Tensor", linear(thin, u, bias, "none", [], ""))


def _measure(shape: Shape, x: Tensor, v: Tensor, u: Tensor, bias: Tensor | None) -> tuple[str, str]:
    """Time both ways in turns and keep the answer."""
    ways: dict[str, Callable[..., Tensor]] = {
        "torch": reference.lowrank_linear,
        "onednn": _onednn,
    }
    try:
        best = {name: float("inf") for name in ways}
        for _ in range(_ROUNDS):
            for name, way in ways.items():
                start = time.perf_counter()
                way(x, v, u, bias)
                best[name] = min(best[name], time.perf_counter() - start)
    except (RuntimeError, NotImplementedError) as error:  # oneDNN refuses a type or a layout
        LINEAR[shape] = ("torch", f"oneDNN refuses: {str(error).splitlines()[0]}")
        return LINEAR[shape]
    ratio = best["torch"] / best["onednn"]
    chosen = "onednn" if best["onednn"] < _MARGIN * best["torch"] else "torch"
    LINEAR[shape] = (chosen, f"oneDNN ran at {ratio:.2f}x the speed of two F.linear")
    return LINEAR[shape]


def int8_lowrank_linear(
    x: Tensor,
    v: tuple[Tensor, Tensor],
    u: tuple[Tensor, Tensor],
    bias: Tensor | None = None,
) -> Tensor:
    """`lowrank_linear` with both factors as int8 rows and float32 scales (weight-only).

    Args:
        x: `[..., in]`, float.
        v: int8 `[r, in]` and scales `[r]`, as `quantize_rows` makes them.
        u: int8 `[out, r]` and scales `[out]`.
        bias: `[out]`.

    Returns:
        `[..., out]` in the dtype of `x`; differentiable in `x` and `bias`.
    """
    return cast("Tensor", torch.ops.compressc.int8_lowrank_linear(x, *v, *u, bias))


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 `[out, in]` and scales `[out]` with `int8 * scale` next to `weight` (symmetric)."""
    weight = weight.detach().float()
    scale = weight.abs().amax(dim=-1) / 127.0
    scale = torch.where(scale == 0, 1.0, scale)
    return torch.round(weight / scale.unsqueeze(-1)).to(torch.int8), scale
