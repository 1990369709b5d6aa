"""`reverse_kl`: what the student makes likely."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from compressc.distillation import Objective, Seen, Unreduced
from compressc.kernels import softmax_kl
from compressc_distill.objectives.temperature import Temperature, number_of


class ReverseKl(Objective):
    """KL the other way round: the student is to make nothing likely that the teacher does not.

    It seeks one mode of the teacher where `kd` covers all: for students that are too small for all,
    and for text that the student wrote itself.
    """

    name: ClassVar[str] = "reverse_kl"
    formula: ClassVar[str] = "T^2 * KL(softmax(s/T) || softmax(t/T))"
    paper: ClassVar[str] = "Gu et al. 2024 (MiniLLM), arXiv 2306.08543; Agarwal et al. 2306.13649"
    shift_free: ClassVar[bool] = True

    T: Temperature = "auto"
    """Temperature. `auto` is 4, and 1 from 500 classes on."""

    def check(self, seen: Seen) -> None:
        """The softmax of a single class is 1 whatever the logit."""
        if seen.classes < 2:
            raise self.misfit("needs 2 classes or more", seen.classes)

    def __call__(self, seen: Seen) -> Unreduced:
        """For each row."""
        t = number_of(self.T, seen.classes)
        rows = seen.student.rows, seen.teacher.rows
        return Unreduced("rows", [softmax_kl(*rows, t, direction="reverse")])

    def mean(self, seen: Seen) -> Tensor:
        """In one pass with the gradient."""
        t = number_of(self.T, seen.classes)
        rows = seen.student.rows, seen.teacher.rows
        return softmax_kl(*rows, t, direction="reverse", reduction="mean")
