"""softmax_kl in Triton: one program per row, an online softmax of both sides, then the gradient.

The same formulas as csrc/include/compressc/softmax_kl.h: shifted logits, and z_s - z_t summed
element by element, so that small divergences keep their digits. The second pass reads the logits
again (they are in the L2 cache) instead of keeping exponentials in memory.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from compressc.kernels.problem import Problem

#: Elements a program holds at once. 4096 does not spill registers on sm_80 and sm_90, 32768 does;
#: the compile test holds this.
BLOCK = 4096
WARPS = 8


@triton.jit  # type: ignore[untyped-decorator]
def softmax_kl_rows(  # type: ignore[no-untyped-def]  # noqa: PLR0913, PLR0915 - a kernel is one function
    student,
    teacher,
    weight,
    loss,
    grad,
    vocab,
    student_stride,
    teacher_stride,
    temperature,
    scale,
    HAS_WEIGHT: tl.constexpr,
    WANT_GRAD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Row `program_id(0)`: its loss, and the gradient of that into contiguous `grad`."""
    row = tl.program_id(0).to(tl.int64)
    factor = scale * tl.load(weight + row) if HAS_WEIGHT else scale
    student += row * student_stride
    teacher += row * teacher_stride
    inverse_t = 1.4426950408889634 / temperature
    lowest = float("-inf")
    m_s = lowest  # maxima so far, and the shifts in use: 0 while a maximum is -inf
    m_t = lowest
    shift_s = 0.0
    shift_t = 0.0
    z_s = 0.0
    z_t = 0.0
    excess = 0.0  # z_s - z_t
    dot = 0.0
    for start in range(0, vocab, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        s = tl.load(student + cols, cols < vocab, other=lowest).to(tl.float32)
        t = tl.load(teacher + cols, cols < vocab, other=lowest).to(tl.float32)
        next_s = tl.maximum(m_s, tl.max(s, axis=0))
        next_t = tl.maximum(m_t, tl.max(t, axis=0))
        to_s = tl.where(next_s == lowest, 0.0, next_s)
        to_t = tl.where(next_t == lowest, 0.0, next_t)
        f_s = tl.exp2((m_s - to_s) * inverse_t)
        f_t = tl.exp2((m_t - to_t) * inverse_t)
        x_s = s - to_s
        x_t = t - to_t
        e_s = tl.exp2(x_s * inverse_t)
        e_t = tl.exp2(x_t * inverse_t)
        moved = (shift_t - to_t) - (shift_s - to_s)
        kept = tl.where(f_t > 0, f_t * (dot + z_t * moved), 0.0)
        dot = kept + tl.sum(tl.where(e_t > 0, e_t * (x_t - x_s), 0.0), axis=0)
        excess = f_t * excess + (f_s - f_t) * z_s + tl.sum(e_s - e_t, axis=0)
        z_s = z_s * f_s + tl.sum(e_s, axis=0)
        z_t = z_t * f_t + tl.sum(e_t, axis=0)
        m_s = next_s
        m_t = next_t
        shift_s = to_s
        shift_t = to_t
    absent = ((m_s == lowest) & (z_s == 0)) | ((m_t == lowest) & (z_t == 0)) | (factor == 0)
    u = excess / z_t
    y = 1.0 + u  # log(1 + u) with the rounding of y taken back
    log_ratio = tl.where(y == 1.0, u, tl.log(y) * (u / (y - 1.0)))
    kl = dot / (z_t * temperature) + log_ratio
    kl = tl.where(kl < 0, 0.0, kl)
    tl.store(loss + row, tl.where(absent, 0.0, factor * temperature * temperature * kl))
    if WANT_GRAD:
        grad += row * vocab
        a = factor * temperature / z_s
        b = factor * temperature / z_t
        for start in range(0, vocab, BLOCK):
            cols = start + tl.arange(0, BLOCK)
            s = tl.load(student + cols, cols < vocab, other=lowest).to(tl.float32)
            t = tl.load(teacher + cols, cols < vocab, other=lowest).to(tl.float32)
            g = tl.exp2((s - shift_s) * inverse_t) * a - tl.exp2((t - shift_t) * inverse_t) * b
            g = tl.where(absent, 0.0, g)
            tl.store(grad + cols, g.to(grad.dtype.element_ty), cols < vocab)


def rows_loss(problem: Problem, want_grad: bool, reduce: bool) -> tuple[Tensor, Tensor | None]:
    """As `native.rows_loss`, for a full teacher, the forward direction and no labels."""
    student, teacher = _rows(problem.student), _rows(problem.teacher)
    rows, vocab = student.shape
    loss = torch.empty(rows, dtype=torch.float32, device=student.device)
    grad = torch.empty_like(student, memory_format=torch.contiguous_format) if want_grad else None
    weight = problem.weight
    if rows > 0:
        softmax_kl_rows[(rows,)](
            student,
            teacher,
            loss if weight is None else weight.float().contiguous(),
            loss,
            loss if grad is None else grad,
            vocab,
            student.stride(0),
            teacher.stride(0),
            float(problem.temperature),
            float(problem.scale),
            HAS_WEIGHT=weight is not None,
            WANT_GRAD=want_grad,
            BLOCK=min(BLOCK, triton.next_power_of_2(max(vocab, 16))),
            num_warps=WARPS if vocab > 1024 else 4,
        )
    return (loss.sum() if reduce else loss), grad


def _rows(logits: Any) -> Tensor:
    rows: Tensor = logits
    return rows if rows.stride(1) == 1 else rows.contiguous()
