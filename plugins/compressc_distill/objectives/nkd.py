"""`nkd`: the target's probability, and the others normalized."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar

from pydantic import Field

from compressc.distillation import Objective, Reading, Seen, Unreduced, widened
from compressc_distill.objectives.targets import apart, targets


class Nkd(Objective):
    """Normalized distillation: cross entropies of the target's probability and of the others.

    Rows without a label have the teacher's answer as their target.
    """

    name: ClassVar[str] = "nkd"
    reads: ClassVar[frozenset[Reading]] = frozenset({"rows", "labels"})
    formula: ClassVar[str] = (
        "-q_y log p_y - gamma * T^2 * sum_j q'_j log p'_j; q, p = softmax(t), softmax(s); "
        "q', p' of t/T, s/T without class y"
    )
    paper: ClassVar[str] = "Yang et al. 2023, arXiv 2303.13005"
    shift_free: ClassVar[bool] = True
    exempt: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"minimum": "cross entropies keep the teacher's entropy, and the target is drawn to 1"}
    )

    T: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Temperature of the other classes."""
    gamma: Annotated[float, Field(ge=0, le=1000)] = 1.5
    """Weight of the other classes."""

    def check(self, seen: Seen) -> None:
        """The second term needs two classes that are not the target."""
        if seen.classes < 3:
            raise self.misfit("needs 3 classes or more", seen.classes, "distill(objective=kd)")

    def __call__(self, seen: Seen) -> Unreduced:
        """For each row."""
        target = targets(seen)
        student, teacher = widened(seen.student.rows), widened(seen.teacher.rows)
        ours, our_others = apart(student, target)
        theirs, their_others = apart(teacher, target)
        log_target = ours - student.logsumexp(-1)
        of_target = -(theirs - teacher.logsumexp(-1)).exp() * log_target
        q = (their_others / self.T).softmax(-1)
        of_others = -(q * (our_others / self.T).log_softmax(-1)).sum(-1)
        return Unreduced("rows", [of_target + self.gamma * self.T**2 * of_others])
