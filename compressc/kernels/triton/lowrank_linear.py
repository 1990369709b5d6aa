"""x v^T u^T + bias in one Triton kernel for few rows: the product of rank r never leaves the chip.

Every program makes the whole inner product for its rows, and then its share of the outputs; when
that pays is `lowrank/gpu.py`'s to say.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Rows of x in a program: the least that tensor cores take.
ROWS = 16


@triton.jit  # type: ignore[untyped-decorator]
def lowrank_linear_rows(  # type: ignore[no-untyped-def]  # noqa: PLR0913 - a kernel is one function
    x,
    v,
    u,
    bias,
    y,
    rows,
    inner,
    rank,
    out,
    HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    RANK: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
):
    """Outputs `[ROWS, BLOCK_OUT]` at (program_id(1), program_id(0)); everything contiguous."""
    m = tl.program_id(1) * ROWS + tl.arange(0, ROWS)[:, None]
    r = tl.arange(0, RANK)
    thin = tl.zeros((ROWS, RANK), dtype=tl.float32)
    for start in range(0, inner, BLOCK_IN):
        k = start + tl.arange(0, BLOCK_IN)
        a = tl.load(x + m * inner + k[None, :], (m < rows) & (k[None, :] < inner), other=0.0)
        inside = (r[None, :] < rank) & (k[:, None] < inner)
        b = tl.load(v + r[None, :] * inner + k[:, None], inside, other=0.0)
        thin = tl.dot(a, b, thin, input_precision="ieee")
    n = tl.program_id(0) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)[None, :]
    w = tl.load(u + n * rank + r[:, None], (n < out) & (r[:, None] < rank), other=0.0)
    wide = tl.dot(thin.to(w.dtype), w, input_precision="ieee")
    if HAS_BIAS:
        wide += tl.load(bias + n, n < out, other=0.0).to(tl.float32)
    tl.store(y + m * out + n, wide.to(y.dtype.element_ty), (m < rows) & (n < out))


def tiles(rank: int, itemsize: int) -> dict[str, int]:
    """How much of each product a program holds: what the compile test found not to spill.

    float32 has no tensor core of its precision, and needs many registers.
    """
    padded = triton.next_power_of_2(max(rank, 16))
    wide = itemsize == 4
    block = (64 if padded <= 64 else 32) // (2 if wide else 1)
    return {"ROWS": ROWS, "RANK": padded, "BLOCK_IN": block, "BLOCK_OUT": block}


def warps(rank: int) -> int:
    """Of a program."""
    return 4 if rank <= 64 else 8


def lowrank_linear(x: Tensor, v: Tensor, u: Tensor, bias: Tensor | None = None) -> Tensor:
    """`reference.lowrank_linear` of one dtype, rank at most `lowrank.gpu.MOST_RANK`."""
    flat = x.reshape(-1, x.shape[-1]).contiguous()
    (rows, inner), (out, rank) = flat.shape, u.shape
    y = torch.empty(rows, out, dtype=x.dtype, device=x.device)
    sizes = tiles(rank, x.element_size())
    if rows > 0 and out > 0:
        lowrank_linear_rows[(triton.cdiv(out, sizes["BLOCK_OUT"]), triton.cdiv(rows, ROWS))](
            flat,
            v.contiguous(),
            u.contiguous(),
            y if bias is None else bias.contiguous(),
            y,
            rows,
            inner,
            rank,
            out,
            HAS_BIAS=bias is not None,
            num_warps=warps(rank),
            **sizes,
        )
    return y.reshape(*x.shape[:-1], out)
