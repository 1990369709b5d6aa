"""What one call asks of a loss kernel."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Problem(NamedTuple):
    """Logits of one shape `[B, V]` on one device, and how to compare their rows.

    Attributes:
        student: raw logits, the ones that get a gradient.
        teacher: raw logits.
        temperature: T > 0.
        weight: `[B]` or None for 1; a row of weight 0 is ignored, whatever it holds.
        scale: of every loss and gradient; `1 / B` makes the gradient of a sum that of a mean.
    """

    student: Tensor
    teacher: Tensor
    temperature: float
    weight: Tensor | None = None
    scale: float = 1.0
