"""The loss of `linear_kl.py` with the vocabulary in pieces: no row of logits is ever whole.

For each row, with temperature T, student logits s and teacher logits t, maxima m_s and m_t,

    e_s = exp((s - m_s) / T)     z_s = sum(e_s)     e_t, z_t likewise
    dot = sum(e_t * ((t - m_t) - (s - m_s)))        excess = sum(e_s - e_t)
    KL = dot / (T z_t) + log(z_s / z_t)             z_s / z_t = 1 + excess / z_t

Each element is shifted before it is multiplied or subtracted, and where the sides are alike the
logarithm is that of 1 + excess / z_t; so an offset common to all logits cancels before anything is
rounded, and so does what student and teacher have in common. A first sweep over the pieces sums
online: when a piece raises a maximum m to m', sums so far take the factor f = exp((m - m') / T),

    z_s <- f_s z_s     excess <- f_t excess + (f_s - f_t) z_s
    z_t <- f_t z_t     dot <- f_t (dot + z_t ((m_t - m_t') - (m_s - m_s')))

Where gradients are wanted, a second sweep makes the logits of each piece again and turns them into
their gradient, `T * weight * (e_s / z_s - e_t / z_t)`. So the products of the logits are paid
twice: six products in place of four. A loss alone takes one sweep. Plain torch, for any device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from compressc.kernels.losses import products

#: Columns of a piece, and rows with which one is made: a piece of a side stays in a cache.
COLUMNS = 4096
ROWS = 256

INF = float("inf")


class Pieces(NamedTuple):
    """Tokens to compare: `[B, D]` and `[V, D]`, `[B, E]` and `[V, E]`, and a factor `[B]`.

    Rows of weight 0 are absent, whatever they hold.
    """

    h_s: Tensor
    w_s: Tensor
    h_t: Tensor
    w_t: Tensor
    temperature: float
    weight: Tensor

    def wide(self) -> torch.dtype:
        """The dtype of the arithmetic between the products."""
        return torch.promote_types(
            torch.promote_types(self.h_s.dtype, self.h_t.dtype), torch.float32
        )

    def logits(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Which columns, and both sides' logits there, which may be overwritten."""
        for begin in range(0, self.w_s.shape[0], COLUMNS):
            piece = slice(begin, begin + COLUMNS)
            student = products.linear(self.h_s, self.w_s[piece]).to(self.wide())
            yield piece, student, products.linear(self.h_t, self.w_t[piece]).to(self.wide())


class Sums(NamedTuple):
    """What is known of each row, `[B, 1]`: maxima, and sums relative to them in float64."""

    max_s: Tensor
    max_t: Tensor
    z_s: Tensor
    z_t: Tensor
    excess: Tensor
    dot: Tensor

    @classmethod
    def none(cls, like: Tensor) -> Sums:
        """Of no columns, for as many rows as `like`."""
        start = like.new_full((like.shape[0], 1), -INF, dtype=torch.float64)
        zero = torch.zeros_like(start)
        return cls(start, start, zero, zero, zero, zero)

    def raised(self, max_s: Tensor, max_t: Tensor, temperature: float) -> Sums:
        """The same sums relative to other maxima."""
        rise_s = _finite_or_zero(self.max_s) - _finite_or_zero(max_s)
        rise_t = _finite_or_zero(self.max_t) - _finite_or_zero(max_t)
        f_s = torch.exp((self.max_s - _finite_or_zero(max_s)) / temperature)
        f_t = torch.exp((self.max_t - _finite_or_zero(max_t)) / temperature)
        # Where f_t is 0 there is no mass so far, and dot may be infinite.
        dot = torch.where(f_t == 0, 0.0, f_t * (self.dot + self.z_t * (rise_t - rise_s)))
        excess = f_t * self.excess + (f_s - f_t) * self.z_s
        return Sums(max_s, max_t, f_s * self.z_s, f_t * self.z_t, excess, dot)

    def with_piece(self, s: Tensor, t: Tensor, temperature: float) -> Sums:
        """With the logits `[B, columns]` of one piece, which are overwritten."""
        max_s = torch.maximum(self.max_s, s.amax(-1, keepdim=True))
        max_t = torch.maximum(self.max_t, t.amax(-1, keepdim=True))
        before = self.raised(max_s, max_t, temperature)
        s.sub_(_finite_or_zero(max_s).to(s.dtype))
        t.sub_(_finite_or_zero(max_t).to(t.dtype))
        gap = t - s
        e_s, e_t = _exp(s, temperature), _exp(t, temperature)
        # Where e_t is 0 a term is 0, even of an infinite gap. NaN logits show in the other sums.
        gap.mul_(e_t).nan_to_num_(nan=0.0, posinf=INF)
        z_s, z_t = _sum(e_s), _sum(e_t)
        return Sums(
            max_s,
            max_t,
            before.z_s + z_s,
            before.z_t + z_t,
            before.excess + _sum(e_s.sub_(e_t)),
            before.dot + _sum(gap),
        )

    def masked(self) -> Tensor:
        """Rows that have no finite logit on either of the sides. Not those with a NaN."""
        return (self.max_s == -INF) | (self.max_t == -INF)

    def kl(self, temperature: float) -> Tensor:
        """Each row's divergence, never below 0."""
        alike = self.excess.abs() < 0.5 * self.z_t
        ratio = torch.where(
            alike, torch.log1p(self.excess / self.z_t), torch.log(self.z_s / self.z_t)
        )
        return (self.dot / self.z_t / temperature + ratio).clamp(min=0.0)


def loss(problem: Pieces) -> tuple[Tensor, Sums]:
    """The sum of `weight * T^2 * KL` over rows, float64, and what `add_grads` needs of each row."""
    sums = Sums.none(problem.h_s)
    for _, student, teacher in problem.logits():
        sums = sums.with_piece(student, teacher, problem.temperature)
    weight = problem.weight.unsqueeze(-1).to(torch.float64)
    rows = sums.kl(problem.temperature) * weight * problem.temperature**2
    return rows.masked_fill(sums.masked() | (weight == 0), 0.0).sum(), sums


def add_grads(
    problem: Pieces, sums: Sums, want_h: bool, grad_w: Tensor | None, first: bool
) -> Tensor | None:
    """The gradient of the hidden states `[B, D]`, and that of the weight added to `grad_w`.

    With `first` it is not added but written, and `grad_w` `[V, D]` may hold anything.
    """
    grad_h = torch.zeros_like(problem.h_s, dtype=problem.wide()) if want_h else None
    for piece, pull in _pulls(problem, sums):
        if grad_h is not None:
            grad_h += products.input_grad(pull, problem.w_s[piece].to(pull.dtype))
        if grad_w is not None:
            products.add_weight_grad(grad_w[piece], pull, problem.h_s, first)
    return grad_h


def _pulls(problem: Pieces, sums: Sums) -> Iterator[tuple[slice, Tensor]]:
    """The gradient of the logits of each piece."""
    wide, absent = problem.wide(), sums.masked() | (problem.weight == 0).unsqueeze(-1)
    factor = problem.temperature * problem.weight.unsqueeze(-1).to(torch.float64)
    factor_s = (factor / sums.z_s).masked_fill(absent, 0.0).to(wide)
    factor_t = (factor / sums.z_t).masked_fill(absent, 0.0).to(wide)
    shift_s, shift_t = _finite_or_zero(sums.max_s).to(wide), _finite_or_zero(sums.max_t).to(wide)
    for piece, student, teacher in problem.logits():
        e_s = _exp(student.sub_(shift_s), problem.temperature)
        e_t = _exp(teacher.sub_(shift_t), problem.temperature)
        yield piece, e_s.mul_(factor_s).addcmul_(e_t, factor_t, value=-1.0)


def _exp(shifted: Tensor, temperature: float) -> Tensor:
    """`exp(shifted / T)`, in place; on a CPU torch's `exp2` is four times as fast as its `exp`."""
    return shifted.mul_(math.log2(math.e) / temperature).exp2_()


def _sum(piece: Tensor) -> Tensor:
    return piece.sum(-1, keepdim=True).to(torch.float64)


def _finite_or_zero(maximum: Tensor) -> Tensor:
    return torch.where(maximum == -INF, 0.0, maximum)
