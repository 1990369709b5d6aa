"""softmax_kl and softmax_kl_ce in Triton: a program a row, an online softmax, then the gradient.

The same formulas as csrc/include/compressc/softmax_kl.h: shifted logits, and z_s - z_t summed
element by element, so that small divergences keep their digits. The later passes read the logits
again (they are in the L2 cache) instead of keeping exponentials in memory.
"""

from __future__ import annotations

import triton
import triton.language as tl

#: Elements a program holds at once, 8 a thread.
BLOCK = 4096
WARPS = 16
#: Registers a thread may use: two programs fit on a multiprocessor. Unless told, ptxas aims at more
#: of them and spills. The compile test holds this.
REGISTERS = 64

LOG2E = tl.constexpr(1.4426950408889634)
LOG2 = tl.constexpr(0.6931471805599453)
REVERSE = tl.constexpr(1)
JENSEN_SHANNON = tl.constexpr(2)


@triton.jit
def log1p(u):  # type: ignore[no-untyped-def]
    """log(1 + u): the rounding of 1 + u is taken back."""
    y = 1.0 + u
    return tl.where(y == 1.0, u, tl.log(y) * (u / tl.where(y == 1.0, 1.0, y - 1.0)))


@triton.jit
def finite_or_zero(m):  # type: ignore[no-untyped-def]
    """What logits are shifted by: their maximum, or 0 while that is -inf."""
    return tl.where(m == float("-inf"), 0.0, m)


@triton.jit  # type: ignore[untyped-decorator]
def load_row(row, start, vocab, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Logits from `start` on as float32, -inf beyond the row."""
    cols = start + tl.arange(0, BLOCK)
    return tl.load(row + cols, cols < vocab, other=float("-inf")).to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]
def row_sums(  # type: ignore[no-untyped-def]  # noqa: PLR0913 - as the kernel
    student, teacher, vocab, inverse_t, DIRECTION: tl.constexpr, LABELS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums over a row, relative to its maxima m_s and m_t.

    z: of exponentials. excess: z_s - z_t. dot: of e_t d, or of -e_s d for the reverse direction,
    where d is the gap between shifted logits. z_1: of the student at temperature 1. below: of the
    student's shifted logits.
    """
    m_s = float("-inf")
    m_t = float("-inf")
    z_s = 0.0
    z_t = 0.0
    excess = 0.0
    dot = 0.0
    z_1 = 0.0
    below = 0.0
    for start in range(0, vocab, BLOCK):
        s = load_row(student, start, vocab, BLOCK)
        t = load_row(teacher, start, vocab, BLOCK)
        next_s = tl.maximum(m_s, tl.max(s, axis=0))
        next_t = tl.maximum(m_t, tl.max(t, axis=0))
        to_s = finite_or_zero(next_s)
        to_t = finite_or_zero(next_t)
        f_s = tl.exp2((m_s - to_s) * inverse_t)
        f_t = tl.exp2((m_t - to_t) * inverse_t)
        x_s = s - to_s
        x_t = t - to_t
        e_s = tl.exp2(x_s * inverse_t)
        e_t = tl.exp2(x_t * inverse_t)
        moved = (finite_or_zero(m_t) - to_t) - (finite_or_zero(m_s) - to_s)
        if DIRECTION == REVERSE:
            kept = tl.where(f_s > 0, f_s * (dot - z_s * moved), 0.0)
            dot = kept + tl.sum(tl.where(e_s > 0, e_s * (x_s - x_t), 0.0), axis=0)
        else:
            kept = tl.where(f_t > 0, f_t * (dot + z_t * moved), 0.0)
            dot = kept + tl.sum(tl.where(e_t > 0, e_t * (x_t - x_s), 0.0), axis=0)
        if LABELS:
            z_1 = z_1 * tl.exp2((m_s - to_s) * LOG2E) + tl.sum(tl.exp2(x_s * LOG2E), axis=0)
            here = start + tl.arange(0, BLOCK) < vocab
            below += start * (finite_or_zero(m_s) - to_s) + tl.sum(tl.where(here, x_s, 0.0), axis=0)
        excess = f_t * excess + (f_s - f_t) * z_s + tl.sum(e_s - e_t, axis=0)
        z_s = z_s * f_s + tl.sum(e_s, axis=0)
        z_t = z_t * f_t + tl.sum(e_t, axis=0)
        m_s = next_s
        m_t = next_t
    return m_s, m_t, z_s, z_t, excess, dot, z_1, below


@triton.jit
def from_middle(log_odds):  # type: ignore[no-untyped-def]
    """log(q / m) of l = log(q / p), with m = (p + q) / 2: log 2 - log(1 + e^-l)."""
    bend = log1p(tl.exp2(-tl.abs(log_odds) * LOG2E))
    return LOG2 - (tl.maximum(-log_odds, 0.0) + bend)


@triton.jit  # type: ignore[untyped-decorator]
def softmax_kl_rows(  # type: ignore[no-untyped-def]  # noqa: PLR0912, PLR0913, PLR0915 - a kernel is one function
    student,
    teacher,
    weight,
    labels,
    loss,
    grad,
    vocab,
    student_stride,
    teacher_stride,
    temperature,
    scale,
    kl_share,
    smoothing,
    HAS_WEIGHT: tl.constexpr,
    LABELS: tl.constexpr,
    DIRECTION: tl.constexpr,
    WANT_GRAD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Row `program_id(0)`: its loss, and the gradient of that into contiguous `grad`."""
    row = tl.program_id(0).to(tl.int64)
    factor = scale * tl.load(weight + row) if HAS_WEIGHT else scale
    student += row * student_stride
    teacher += row * teacher_stride
    if LABELS:
        label = tl.load(labels + row)
        factor = tl.where(label >= vocab, float("nan"), factor)  # nothing waits here to report it
        labelled = (label >= 0) & (label < vocab)
        at_label = tl.load(student + label, labelled, other=0.0).to(tl.float32)
    inverse_t = LOG2E / temperature
    m_s, m_t, z_s, z_t, excess, dot, z_1, below = row_sums(
        student, teacher, vocab, inverse_t, DIRECTION, LABELS, BLOCK
    )
    shift_s = finite_or_zero(m_s)
    shift_t = finite_or_zero(m_t)
    # A NaN anywhere must come out, so only true zeros count as masked.
    absent = ((m_s == float("-inf")) & (z_s == 0)) | ((m_t == float("-inf")) & (z_t == 0))
    absent = absent | (factor == 0)
    # log(z_s / z_t): near 1 from the difference, which has more digits than the quotient.
    u = excess / z_t
    ratio = tl.where((u > -0.5) & (u < 1.0), log1p(u), tl.log(z_s) - tl.log(z_t))
    mean_slope = 0.0
    if DIRECTION == REVERSE:
        divergence = dot / (z_s * temperature) - ratio
        mean_slope = divergence
    elif DIRECTION == JENSEN_SHANNON:
        terms = 0.0
        for start in range(0, vocab, BLOCK):
            x_s = load_row(student, start, vocab, BLOCK) - shift_s
            x_t = load_row(teacher, start, vocab, BLOCK) - shift_t
            q = tl.exp2(x_s * inverse_t) / z_s
            p = tl.exp2(x_t * inverse_t) / z_t
            log_odds = (x_s - x_t) / temperature - ratio
            of_q = tl.where(q > 0, q * from_middle(log_odds), 0.0)
            of_p = tl.where(p > 0, p * from_middle(-log_odds), 0.0)
            terms += tl.sum(of_q + of_p, axis=0) / 2
            mean_slope += tl.sum(of_q, axis=0) / 2
        # The guards step over a NaN.
        divergence = terms + 0.0 * (z_s + z_t)
    else:
        divergence = dot / (z_t * temperature) + ratio
    soft = factor * temperature
    value = tl.where(divergence < 0, 0.0, divergence) * temperature * temperature
    if LABELS:
        soft *= kl_share
        hard = tl.where(labelled, factor * (1.0 - kl_share), 0.0)
        log_z = tl.log(z_1)
        ce = log_z - (1.0 - smoothing) * (at_label - shift_s)
        if smoothing > 0:  # without it, masked logits (-inf) must not count
            ce -= smoothing * below / vocab
        value = kl_share * value + tl.where(labelled, (1.0 - kl_share) * ce, 0.0)
    tl.store(loss + row, tl.where(absent, 0.0, factor * value))
    if WANT_GRAD:
        grad += row * vocab
        for start in range(0, vocab, BLOCK):
            cols = start + tl.arange(0, BLOCK)
            x_s = load_row(student, start, vocab, BLOCK) - shift_s
            x_t = load_row(teacher, start, vocab, BLOCK) - shift_t
            e_s = tl.exp2(x_s * inverse_t)
            if DIRECTION >= REVERSE:
                slope = (x_s - x_t) / temperature - ratio
                if DIRECTION == JENSEN_SHANNON:
                    slope = from_middle(slope) / 2
                g = e_s * (soft / z_s) * (slope - mean_slope)
                g = tl.where(e_s > 0, g, 0.0)
                # An infinite loss has no finite slope either.
                g = tl.where(divergence == float("inf"), 0.0, g)
            else:
                g = e_s * (soft / z_s) - tl.exp2(x_t * inverse_t) * (soft / z_t)
            if LABELS:
                target = smoothing / vocab + tl.where(cols == label, 1.0 - smoothing, 0.0)
                g += hard * (tl.exp2(x_s * LOG2E) / z_1 - target)
            g = tl.where(absent, 0.0, g)
            tl.store(grad + cols, g.to(grad.dtype.element_ty), cols < vocab)
