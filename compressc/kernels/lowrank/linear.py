"""The factored linear layer: two thin products in place of a wide one.

On a CPU three ways lead there: one call of the fused C++ kernel, two `F.linear`, or two calls of
oneDNN. Each shape is timed once; `LINEAR` holds what came out, and `dispatch.table` shows it.
`gpu.py` is about GPUs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Parameter

from compressc.kernels import native, onednn, reference
from compressc.kernels.forced import FORCED, demanded
from compressc.kernels.lowrank import gpu
from compressc.kernels.lowrank.shape import Shape, plain_inference

Way = Callable[[Tensor, Tensor, Tensor, "Tensor | None"], Tensor]
_torch = reference.lowrank_linear  # two F.linear

#: A way must take at most this share of the time of two `F.linear` to be chosen: less is noise.
_MARGIN = 0.95
_ROUNDS = 7
_MOST_SECONDS = 0.1  # of a measurement, after two rounds
_MOST_SIZES = 4096  # exact sizes that are remembered
#: Multiplications by v: below, calling oneDNN costs more than it saves. The fused kernel, one call
#: in place of two, knows no such limit.
_SMALLEST = 1 << 20

#: `Shape` -> (chosen, reason), as measured in this process.
LINEAR: dict[tuple[Any, ...], tuple[str, str]] = {}
#: Exact sizes -> what multiplies them: `LINEAR` without the arithmetic of rounding up.
_KNOWN: dict[tuple[Any, ...], Way] = {}

#: What there is more than one way for.
TYPES = (torch.float32, torch.bfloat16)
_CLASSES = (Tensor, Parameter)  # a subclass may mean anything by its elements
_is_compiling = torch.compiler.is_compiling


def lowrank_linear(x: Tensor, v: Tensor, u: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ v.T @ u.T + bias`, by the fastest way for this shape.

    The first call of a shape measures (a few milliseconds) and the process keeps the answer. Where
    a gradient is wanted, a trace is running or deterministic algorithms are demanded, it is two
    `F.linear`, so that training and exports do not depend on a measurement. Arguments as in
    `reference.lowrank_linear`.
    """
    # In the order of cost, because in a small layer every line here is felt; and under a trace the
    # sizes may be symbols, which nothing may look at.
    if _is_compiling() or type(x) is not Tensor:
        return _torch(x, v, u, bias)
    if x.is_cuda:
        return gpu.lowrank_linear(x, v, u, bias)
    if x.dtype not in TYPES or (native.MODULE is None and x.numel() * v.shape[0] < _SMALLEST):
        return _torch(x, v, u, bias)
    if not plain_inference(x, v, u, bias) or not _one_kind(x, v, u, bias):
        return _torch(x, v, u, bias)
    bias_shape = None if bias is None else bias.shape
    key = (x.shape, v.shape, u.shape, bias_shape, x.dtype, torch.get_num_threads())
    way = None if FORCED else _KNOWN.get(key)
    return (way or _choose(key, x, v, u, bias))(x, v, u, bias)


def _onednn(x: Tensor, v: Tensor, u: Tensor, bias: Tensor | None) -> Tensor:
    return onednn.linear(onednn.linear(x, v), u, bias)


def _way(name: str, x: Tensor, v: Tensor, u: Tensor) -> Way:
    if name == "native":
        return native.lowrank_multiplier(x.shape, v.shape[0], u.shape[0], x.dtype)
    return _onednn if name == "onednn" else _torch


def _one_kind(x: Tensor, v: Tensor, u: Tensor, bias: Tensor | None) -> bool:
    """Whether all are plain CPU tensors of one dtype."""
    dtype = x.dtype  # of which there is one object each
    if v.dtype is not dtype or u.dtype is not dtype or not (x.is_cpu and v.is_cpu and u.is_cpu):
        return False
    if type(v) not in _CLASSES or type(u) not in _CLASSES:
        return False
    return bias is None or (bias.dtype is dtype and bias.is_cpu and type(bias) in _CLASSES)


def _fit(x: Tensor, v: Tensor, u: Tensor, bias: Tensor | None) -> bool:
    """Whether the sizes are those of a product, with something in it."""
    if x.dim() == 0 or v.dim() != 2 or u.dim() != 2 or 0 in (x.numel(), v.numel(), u.numel()):
        return False
    if x.shape[-1] != v.shape[1] or u.shape[1] != v.shape[0]:
        return False
    return bias is None or bias.shape == u.shape[:1]


def _choose(key: tuple[Any, ...], x: Tensor, v: Tensor, u: Tensor, bias: Tensor | None) -> Way:
    """The way for these sizes: demanded, known, or measured now."""
    if not _fit(x, v, u, bias):
        return _torch  # which says what is wrong, and need not be remembered
    if FORCED:
        return _way(candidates(x.dtype)[0][0], x, v, u)
    rows = x.numel() // v.shape[1]
    bucket = 1 << (rows - 1).bit_length()
    shape = Shape(bucket, v.shape[1], v.shape[0], u.shape[0], x.dtype, torch.get_num_threads())
    chosen = LINEAR.get(shape) or _measure(shape, x, v, u, bias)
    if len(_KNOWN) >= _MOST_SIZES:
        _KNOWN.clear()
    _KNOWN[key] = _way(chosen[0], x, v, u)
    return _KNOWN[key]


def candidates(dtype: torch.dtype) -> tuple[list[str], str]:
    """The ways there are for a dtype on this CPU, and why no others."""
    if FORCED:
        fused = demanded() == "native" and native.has_lowrank_linear(dtype)
        return ["native" if fused else "torch"], "asked for (COMPRESSC_KERNELS or dispatch.using)"
    names, absent = ["torch"], []
    if native.has_lowrank_linear(dtype):
        names.append("native")
    else:
        absent.append(f"no fused kernel for this dtype: {native.REASON}")
    if not onednn.takes(dtype):
        absent.append("no oneDNN operator for this dtype on this processor")
    else:
        names.append("onednn")
    return names, "; ".join(absent)


def _measure(shape: Shape, x: Tensor, v: Tensor, u: Tensor, bias: Tensor | None) -> tuple[str, str]:
    """Time every way in turns and keep the answer."""
    names, absent = candidates(x.dtype)
    try:
        best = _best_seconds(names, (x, v, u, bias))
    except (RuntimeError, NotImplementedError) as error:  # oneDNN refuses a type or a layout
        absent = f"oneDNN refuses: {str(error).splitlines()[0]}"
        best = _best_seconds([name for name in names if name != "onednn"], (x, v, u, bias))
    fastest = min(best, key=lambda name: best[name])
    chosen = fastest if best[fastest] < _MARGIN * best["torch"] else "torch"
    titles = {"native": "fused kernel", "onednn": "oneDNN"}
    speeds = [f"{titles[n]} {best['torch'] / best[n]:.2f}x" for n in best if n != "torch"]
    reason = "; ".join(speeds) + " the speed of two F.linear" if speeds else ""
    LINEAR[shape] = (chosen, "; ".join(part for part in (reason, absent) if part))
    return LINEAR[shape]


def _best_seconds(
    names: list[str], arguments: tuple[Tensor, Tensor, Tensor, Tensor | None]
) -> dict[str, float]:
    """The shortest of a few calls of each way, taken in turns."""
    ways = {name: _way(name, *arguments[:3]) for name in names}
    best = {name: float("inf") for name in names}
    begin = time.perf_counter()
    for done in range(_ROUNDS):
        if done >= 2 and time.perf_counter() - begin > _MOST_SECONDS:
            break
        for name, way in ways.items():
            start = time.perf_counter()
            way(*arguments)
            best[name] = min(best[name], time.perf_counter() - start)
    return best


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
