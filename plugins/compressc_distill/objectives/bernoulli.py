"""`bernoulli`: answers of yes and no that do not exclude each other."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from compressc.distillation import Objective, Seen, Unreduced
from compressc.kernels import softmax_kl


class Bernoulli(Objective):
    """T^2 * KL of yes and no, each number by itself, the mean over all numbers.

    For independent scores before their sigmoid: a number z is the two classes z and 0.
    """

    name: ClassVar[str] = "bernoulli"
    formula: ClassVar[str] = "mean_ij T^2 * KL((q, 1-q) || (p, 1-p)), q, p = sigmoid(t/T), (s/T)"
    paper: ClassVar[str] = "`kd` of two classes"

    T: Annotated[float, Field(gt=0, le=1000)] = 4.0
    """Temperature: a higher one makes more of unlikely answers."""

    def __call__(self, seen: Seen) -> Unreduced:
        """For each number of each row."""
        values = softmax_kl(_yes_or_no(seen.student.rows), _yes_or_no(seen.teacher.rows), self.T)
        return Unreduced("rows", [values])

    def mean(self, seen: Seen) -> Tensor:
        """In one pass with the gradient."""
        sides = (seen.student.rows, seen.teacher.rows)
        ours, theirs = (_yes_or_no(rows).flatten(0, -2) for rows in sides)
        return softmax_kl(ours, theirs, self.T, reduction="mean")


def _yes_or_no(rows: Tensor) -> Tensor:
    """`[n, v]` -> `[n, v, 2]`."""
    return torch.stack([rows, torch.zeros_like(rows)], -1)
