"""`kd`: the teacher's distribution over the classes, softened."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from compressc.distillation import Objective, Seen, Unreduced
from compressc.kernels import softmax_kl, softmax_kl_ce
from compressc.tasks import NO_LABEL
from compressc_distill.objectives.ce import CrossEntropy


class Kd(Objective):
    """T^2 * KL(softmax(teacher/T) || softmax(student/T)).

    T^2 keeps the gradient of one size whatever T is. With `ce` beside it, one kernel computes both.
    """

    name: ClassVar[str] = "kd"
    formula: ClassVar[str] = "T^2 * KL(softmax(t/T) || softmax(s/T))"
    paper: ClassVar[str] = "Hinton, Vinyals and Dean 2015, arXiv 1503.02531, section 2"
    shift_free: ClassVar[bool] = True

    T: Annotated[float, Field(gt=0, le=1000)] = 4.0
    """Temperature: a higher one makes more of the unlikely classes."""

    def check(self, seen: Seen) -> None:
        """The softmax of a single class is 1 whatever the logit."""
        if seen.classes < 2:
            hint = "distill(objective=scaled_mse)"
            raise self.misfit("needs 2 classes or more", seen.classes, hint)

    def __call__(self, seen: Seen) -> Unreduced:
        """For each row."""
        return Unreduced("rows", [softmax_kl(seen.student.rows, seen.teacher.rows, self.T)])

    def mean(self, seen: Seen) -> Tensor:
        """In one pass with the gradient."""
        return softmax_kl(seen.student.rows, seen.teacher.rows, self.T, reduction="mean")

    def fuses(self, other: Objective) -> bool:
        """Labels and teacher go through one kernel."""
        return type(other) is CrossEntropy

    def fused(self, other: Objective, share: float, seen: Seen) -> Tensor | None:
        """Where the means of all rows are those of the cross entropy: each row has a label."""
        by, labels = seen.by_labels, seen.labels
        if by is None or labels is None or not by.cross_entropy:
            return None
        if bool((labels == NO_LABEL).any()):
            return None
        rows = seen.student.rows, seen.teacher.rows
        return softmax_kl_ce(*rows, labels, self.T, kl_share=share, reduction="mean")
