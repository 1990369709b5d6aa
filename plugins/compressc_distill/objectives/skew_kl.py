"""`skew_kl`: KL to a mixture, which is never infinite."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from compressc.distillation import Objective, Seen, Unreduced, widened
from compressc_distill.objectives.temperature import Temperature, number_of


class SkewKl(Objective):
    """KL from the teacher to the student mixed with some of the teacher, or the other way round.

    The gradient passes through the student inside the mixture, too.
    """

    name: ClassVar[str] = "skew_kl"
    formula: ClassVar[str] = (
        "T^2 * KL(q || skew * q + (1 - skew) * p), q, p = softmax(t/T), softmax(s/T); "
        "reverse: p and q change places"
    )
    paper: ClassVar[str] = "Ko et al. 2024 (DistiLLM), arXiv 2402.03898"
    shift_free: ClassVar[bool] = True

    T: Temperature = "auto"
    """Temperature. `auto` is 4, and 1 from 500 classes on."""
    skew: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the first distribution in the mixture."""
    reverse: bool = False
    """Whether the student is the first one."""

    def check(self, seen: Seen) -> None:
        """The softmax of a single class is 1 whatever the logit."""
        if seen.classes < 2:
            raise self.misfit("needs 2 classes or more", seen.classes)

    def __call__(self, seen: Seen) -> Unreduced:
        """For each row."""
        t = number_of(self.T, seen.classes)
        sides = [(widened(x.rows) / t).log_softmax(-1) for x in (seen.teacher, seen.student)]
        first, second = reversed(sides) if self.reverse else sides
        mixed = second
        if self.skew:
            shares = first + math.log(self.skew), second + math.log(1 - self.skew)
            mixed = torch.logaddexp(*shares)
        return Unreduced("rows", [t**2 * (first.exp() * (first - mixed)).sum(-1)])
