"""`jsd`: between KL and reverse KL."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from compressc.distillation import Objective, Seen, Unreduced, reduce, widened
from compressc.kernels import softmax_kl
from compressc_distill.objectives.temperature import Temperature, number_of


class Jsd(Objective):
    """Generalized Jensen-Shannon divergence: both to their mixture, through which gradients pass.

    Near beta 0 it acts as `kd`, near 1 as `reverse_kl`. One kernel computes it where beta is 0.5.
    """

    name: ClassVar[str] = "jsd"
    formula: ClassVar[str] = (
        "T^2 * (beta * KL(q || m) + (1 - beta) * KL(p || m)), m = beta * q + (1 - beta) * p, "
        "q, p = softmax(t/T), softmax(s/T)"
    )
    paper: ClassVar[str] = "Agarwal et al. 2024 (GKD), arXiv 2306.13649"
    shift_free: ClassVar[bool] = True

    T: Temperature = "auto"
    """Temperature. `auto` is 4, and 1 from 500 classes on."""
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Share of the teacher in the mixture."""

    def check(self, seen: Seen) -> None:
        """The softmax of a single class is 1 whatever the logit."""
        if seen.classes < 2:
            raise self.misfit("needs 2 classes or more", seen.classes)

    def __call__(self, seen: Seen) -> Unreduced:
        """For each row."""
        t, rows = number_of(self.T, seen.classes), (seen.student.rows, seen.teacher.rows)
        if self.beta == 0.5:
            return Unreduced("rows", [softmax_kl(*rows, t, direction="jensen_shannon")])
        p, q = ((widened(x) / t).log_softmax(-1) for x in rows)
        m = torch.logaddexp(q + math.log(self.beta), p + math.log(1 - self.beta))
        to_teacher, to_student = ((x.exp() * (x - m)).sum(-1) for x in (q, p))
        return Unreduced("rows", [t**2 * (self.beta * to_teacher + (1 - self.beta) * to_student)])

    def mean(self, seen: Seen) -> Tensor:
        """In one pass with the gradient, where a kernel has it."""
        if self.beta != 0.5:
            return reduce(self(seen))
        t, rows = number_of(self.T, seen.classes), (seen.student.rows, seen.teacher.rows)
        return softmax_kl(*rows, t, direction="jensen_shannon", reduction="mean")
