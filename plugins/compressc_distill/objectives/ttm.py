"""`ttm`: the teacher's distribution raised to a power, the student's as it is."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from compressc.distillation import Objective, Seen, Unreduced
from compressc.kernels import softmax_kl


class Ttm(Objective):
    """Transformed teacher matching: KL to the teacher's distribution raised to the power gamma.

    That is the teacher at temperature 1/gamma and the student at 1. A low gamma needs a large
    weight: gradients fall with it.
    """

    name: ClassVar[str] = "ttm"
    formula: ClassVar[str] = "KL(q || softmax(s)), q = softmax(gamma * t)"
    paper: ClassVar[str] = "Zheng and Yang 2024, arXiv 2402.11148"
    default_weight: ClassVar[float] = 45.0
    shift_free: ClassVar[bool] = True
    exempt: ClassVar[Mapping[str, str]] = MappingProxyType(
        dict.fromkeys(("minimum", "descent"), "the minimum is the teacher at temperature 1/gamma")
    )

    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    """The power: 0.1 to 0.2."""

    def check(self, seen: Seen) -> None:
        """The softmax of a single class is 1 whatever the logit."""
        if seen.classes < 2:
            raise self.misfit("needs 2 classes or more", seen.classes)

    def __call__(self, seen: Seen) -> Unreduced:
        """For each row."""
        return Unreduced("rows", [softmax_kl(seen.student.rows, self.gamma * seen.teacher.rows)])

    def mean(self, seen: Seen) -> Tensor:
        """In one pass with the gradient."""
        return softmax_kl(seen.student.rows, self.gamma * seen.teacher.rows, reduction="mean")
