"""What one call asks of a loss kernel."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Direction = Literal["forward", "reverse", "jensen_shannon"]


class TopK(NamedTuple):
    """A teacher of whom only the k largest logits of each row were stored.

    Attributes:
        values: raw logits `[..., k]`.
        indices: int64 `[..., k]`, their places in the vocabulary, distinct within a row.
        tail: `[...]`, the probability of all other places together, at the temperature of the loss.
    """

    values: Tensor
    indices: Tensor
    tail: Tensor

    @classmethod
    def of(cls, logits: Tensor, k: int, temperature: float = 1.0) -> TopK:
        """Keep the k largest of full logits `[..., V]`."""
        logits = logits.float()
        values, indices = logits.topk(k, dim=-1)
        whole = torch.logsumexp(logits / temperature, dim=-1)
        # Not 1 - the known: its rounding would be a tail where there is none.
        others = logits.scatter(-1, indices, -torch.inf)
        tail = torch.exp(torch.logsumexp(others / temperature, dim=-1) - whole)
        return cls(values, indices, tail.clamp(0.0, 1.0))


class Problem(NamedTuple):
    """Logits of one shape `[B, V]` on one device, and how to compare their rows.

    Attributes:
        student: raw logits, the ones that get a gradient.
        teacher: raw logits, or the largest of them (then `forward` and no labels).
        temperature: T > 0.
        weight: `[B]` or None for 1; a row of weight 0 is ignored, whatever it holds.
        direction: "forward" is KL(teacher || student).
        labels: int64 `[B]` or None; with labels, a negative one means this row has none.
        kl_share: share of the divergence where there are labels; the rest is cross-entropy.
        smoothing: label smoothing.
        scale: of every loss and gradient; `1 / B` makes the gradient of a sum that of a mean.
    """

    student: Tensor
    teacher: Tensor | TopK
    temperature: float
    weight: Tensor | None = None
    direction: Direction = "forward"
    labels: Tensor | None = None
    kl_share: float = 1.0
    smoothing: float = 0.0
    scale: float = 1.0


def gradient_of(student: Tensor, in_place: bool) -> Tensor:
    """Where the gradient goes: with `in_place` the logits' own memory, which must be contiguous."""
    if in_place:
        assert student.is_contiguous()
        return student
    return torch.empty_like(student, memory_format=torch.contiguous_format)


def rows_of(logits: Tensor) -> Tensor:
    """`[B, V]` as kernels read it: rows may lie apart, the elements of one must be neighbours."""
    if logits.is_contiguous() or logits.shape[1] < 2 or logits.stride(1) == 1:
        return logits
    return logits.contiguous()


def mean_weight(weight: Tensor) -> Tensor:
    """`[B]`, weights that make the sum of losses their mean: divided by their own sum, if any."""
    total = weight.sum(dtype=torch.float32)
    return weight / torch.where(total == 0, 1.0, total)
