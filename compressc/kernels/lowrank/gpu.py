"""lowrank_linear on a GPU: one kernel with the rank-r product on chip, for few rows and a small v.

In the fused kernel every block of threads makes the whole product x v^T, so every block reads all
of v, where two matrix products read it once. What it saves is one launch. With a launch of about 3
microseconds and about 45 GB/s from the L2 cache to one multiprocessor (assumed, not measured here)
it breaks even at about 128 KiB of v. That makes a shape a candidate; the first call then times both
ways on the device at hand, and keeps the answer in `FUSED`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from compressc.kernels import cuda, native, reference
from compressc.kernels.lowrank.shape import Shape, plain_inference

#: `Shape` (rows exact, threads 0) -> (chosen, reason), as measured in this process.
FUSED: dict[tuple[Any, ...], tuple[str, str]] = {}

MOST_ROWS = 16  # beyond, the products keep tensor cores busy and a launch is nothing
#: The product of rank r must fit into registers; float32 has no tensor core of its precision.
MOST_RANK = {torch.float32: 128, torch.bfloat16: 256, torch.float16: 256}
MOST_V_BYTES = 128 << 10
_MARGIN = 0.95  # the fused kernel must be this much faster in the measurement: less is noise
_ROUNDS = 15


def lowrank_linear(x: Tensor, v: Tensor, u: Tensor, bias: Tensor | None = None) -> Tensor:
    """`reference.lowrank_linear`, fused where that may win and was measured to."""
    rows = x.numel() // max(v.shape[1], 1)
    key = Shape(rows, v.shape[1], v.shape[0], u.shape[0], x.dtype, 0)
    if why_not_fused(key) or not plain_inference(x, v, u, bias):
        return reference.lowrank_linear(x, v, u, bias)
    if x.dtype != v.dtype or x.dtype != u.dtype or (bias is not None and bias.dtype != x.dtype):
        return reference.lowrank_linear(x, v, u, bias)
    chosen = FUSED.get(key)
    if chosen is None:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return reference.lowrank_linear(x, v, u, bias)  # a graph being captured cannot wait
        chosen = FUSED[key] = _measure(x, v, u, bias)
    ways = {"cuda": cuda.lowrank_linear, "triton": triton_linear}
    return ways.get(chosen[0], reference.lowrank_linear)(x, v, u, bias)


def why_not_fused(shape: Shape) -> str:
    """Why two matrix products are at least as fast for this shape; empty if one kernel may win."""
    if shape.dtype not in native.DTYPES:
        return "no kernel for this dtype"
    if not 0 < shape.rows <= MOST_ROWS:
        return f"more than {MOST_ROWS} rows: arithmetic outweighs the launch that fusing saves"
    if shape.rank > MOST_RANK[shape.dtype]:
        return f"rank above {MOST_RANK[shape.dtype]}: the inner product does not fit on chip"
    if shape.rank * shape.inner * shape.dtype.itemsize > MOST_V_BYTES:
        return "every block would read all of v: longer than a launch"
    return "" if fused() else "no GPU kernel is built or installed"


def fused() -> str:
    """The implementation of the fused kernel that is here: "cuda", "triton" or none."""
    if cuda.LIBRARY is not None:
        return "cuda"
    return "triton" if find_spec("triton") else ""


def triton_linear(x: Tensor, v: Tensor, u: Tensor, bias: Tensor | None = None) -> Tensor:
    """The Triton kernel; imports triton."""
    from compressc.kernels.triton import lowrank_linear as kernel

    return kernel.lowrank_linear(x, v, u, bias)


def _measure(x: Tensor, v: Tensor, u: Tensor, bias: Tensor | None) -> tuple[str, str]:
    name = fused()
    ways: dict[str, Callable[..., Tensor]] = {
        "torch": reference.lowrank_linear,
        name: cuda.lowrank_linear if name == "cuda" else triton_linear,
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(_ROUNDS):
        for way, call in ways.items():
            times[way].append(_milliseconds(lambda call=call: call(x, v, u, bias)))  # type: ignore[misc]
    # The first rounds compile and warm up.
    plain, ours = (statistics.median(times[way][3:]) for way in ("torch", name))
    chosen = name if ours < _MARGIN * plain else "torch"
    return chosen, f"the fused {name} kernel ran at {plain / ours:.2f}x the speed of two F.linear"


def _milliseconds(call: Callable[[], Tensor]) -> float:
    event: Any = torch.cuda.Event  # untyped in torch
    begin, end = event(enable_timing=True), event(enable_timing=True)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))
