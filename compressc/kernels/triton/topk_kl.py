"""softmax_kl with a top-k teacher in Triton: KL of k + 1 events, one program a row.

The formulas are those of csrc/include/compressc/topk_kl.h. The student's mass outside the k tokens
is a sum of its own, without a difference, so that it keeps its digits when it is small.
"""

from __future__ import annotations

import triton
import triton.language as tl

from compressc.kernels.triton.softmax_kl import LOG2E, finite_or_zero, load_row, log1p


@triton.jit  # type: ignore[untyped-decorator]
def sums_outside(  # type: ignore[no-untyped-def]  # noqa: PLR0913 - as the kernel
    student, indices, vocab, k, inverse_t, BLOCK: tl.constexpr
):
    """The student's maximum, and its sum over all tokens but the k, relative to that."""
    m = float("-inf")
    rest = 0.0
    for start in range(0, vocab, BLOCK):
        s = load_row(student, start, vocab, BLOCK)
        next_m = tl.maximum(m, tl.max(s, axis=0))
        to = finite_or_zero(next_m)
        e = tl.exp2((s - to) * inverse_t)
        for j in range(0, k):
            place = tl.load(indices + j) - start
            if (place >= 0) & (place < BLOCK):  # the same for the whole program, and rare
                e = tl.where(tl.arange(0, BLOCK) == place, 0.0, e)
        rest = rest * tl.exp2((m - to) * inverse_t) + tl.sum(e, axis=0)
        m = next_m
    return m, rest


@triton.jit  # type: ignore[untyped-decorator]
def topk_kl_rows(  # type: ignore[no-untyped-def]  # noqa: PLR0913 - a kernel is one function
    student,
    values,
    indices,
    tail,
    weight,
    loss,
    grad,
    vocab,
    k,
    student_stride,
    temperature,
    scale,
    HAS_WEIGHT: tl.constexpr,
    WANT_GRAD: tl.constexpr,
    KNOWN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Row `program_id(0)`: its loss, and the gradient of that into contiguous `grad`."""
    row = tl.program_id(0).to(tl.int64)
    factor = scale * tl.load(weight + row) if HAS_WEIGHT else scale
    student += row * student_stride
    indices += row * k
    known = tl.arange(0, KNOWN) < k
    at = tl.load(indices + tl.arange(0, KNOWN), known, other=0)
    inside = known & (at >= 0) & (at < vocab)
    wrong = tl.sum((known & (inside == 0)).to(tl.int32), axis=0) > 0
    factor = tl.where(wrong & (factor != 0), float("nan"), factor)  # nothing waits to report it
    s_k = tl.load(student + at, inside, other=float("-inf")).to(tl.float32)
    t_k = tl.load(values + row * k + tl.arange(0, KNOWN), known, other=float("-inf"))
    beyond = tl.load(tail + row)
    inverse_t = LOG2E / temperature
    m_s, rest = sums_outside(student, indices, vocab, k, inverse_t, BLOCK)
    shift = finite_or_zero(m_s)
    m_t = finite_or_zero(tl.max(t_k, axis=0))
    q = tl.exp2((s_k - shift) * inverse_t)
    among = tl.sum(q, axis=0)
    z = among + rest
    p = tl.exp2((t_k - m_t) * inverse_t)
    z_t = tl.sum(p, axis=0)
    p *= (1.0 - beyond) / z_t
    absent = ((m_s == float("-inf")) & (z == 0)) | (z_t == 0) | (factor == 0)
    # Element by element, so that what both sides have in common cancels before it is rounded.
    gap = ((t_k - m_t) - (s_k - shift)) / temperature + (tl.log((1.0 - beyond) / z_t) + tl.log(z))
    kl = tl.sum(tl.where(known & (p != 0), p * gap, 0.0), axis=0)
    share = tl.where(among < rest, -among / z, 0.0)
    log_rest = tl.where(among < rest, log1p(share), tl.log(rest / z))
    kl += tl.where(beyond > 0, beyond * (tl.log(beyond) - log_rest), 0.0)
    kl = tl.where(kl < 0, 0.0, kl) * temperature * temperature
    tl.store(loss + row, tl.where(absent, 0.0, factor * kl))
    if WANT_GRAD:
        grad += row * vocab
        pull = factor * temperature
        # Without mass outside there is nothing to pull there: its logits are -inf, or far below.
        outside = tl.where(rest > 0, pull * (1.0 / z - beyond / rest), pull * 0.0)
        for start in range(0, vocab, BLOCK):
            cols = start + tl.arange(0, BLOCK)
            g = tl.exp2((load_row(student, start, vocab, BLOCK) - shift) * inverse_t) * outside
            g = tl.where(absent, 0.0, g)
            tl.store(grad + cols, g.to(grad.dtype.element_ty), cols < vocab)
        tl.debug_barrier()  # the k tokens are written twice, by different threads
        g_k = tl.where(absent, 0.0, pull * (q / z - p))
        tl.store(grad + at, g_k.to(grad.dtype.element_ty), inside)
