"""`dkd`: the target class and the others apart."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from compressc.distillation import Objective, Reading, Seen, Unreduced, widened
from compressc.kernels import softmax_kl
from compressc_distill.objectives.targets import apart, targets
from compressc_distill.objectives.temperature import Temperature, number_of


class Dkd(Objective):
    """Decoupled distillation: the KL of (target, not target) + beta * that of the other classes.

    Both times T^2. Rows without a label have the teacher's answer as their target. All is computed
    from differences of logits: a softmax that is merged first has no logarithm where it is sure.
    """

    name: ClassVar[str] = "dkd"
    reads: ClassVar[frozenset[Reading]] = frozenset({"rows", "labels"})
    formula: ClassVar[str] = "T^2 * (KL of (y, not y) + beta * KL of the classes without y)"
    paper: ClassVar[str] = "Zhao et al. 2022, arXiv 2203.08679, eq. 7"
    shift_free: ClassVar[bool] = True

    T: Temperature = "auto"
    """Temperature: a higher one makes more of the unlikely classes. `auto` is 4, and 1 from 500
    classes on."""
    beta: Annotated[float, Field(ge=0, le=1000)] = 8.0
    """Weight of what the teacher says about the other classes. The paper takes up to 10, more for a
    more confident teacher, and 0.5 for ImageNet."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the run over which the loss rises from 0; the paper takes 20 epochs of 240."""

    def check(self, seen: Seen) -> None:
        """The second term needs two classes that are not the target."""
        if seen.classes < 3:
            raise self.misfit("needs 3 classes or more", seen.classes, "distill(objective=kd)")

    def __call__(self, seen: Seen) -> Unreduced:
        """For each row."""
        t, target = number_of(self.T, seen.classes), targets(seen)
        sides = (widened(side.rows) for side in (seen.student, seen.teacher))
        (ours, our_others), (theirs, their_others) = (apart(x, target) for x in sides)
        target_loss = _of_two(
            ours / t - (our_others / t).logsumexp(-1), theirs / t - (their_others / t).logsumexp(-1)
        )
        others_loss = softmax_kl(our_others, their_others, t)
        rising = min(1.0, seen.progress / self.warmup) if self.warmup else 1.0
        return Unreduced("rows", [rising * (target_loss * t**2 + self.beta * others_loss)])


def _of_two(student: Tensor, teacher: Tensor) -> Tensor:
    """KL of (yes, no) by the log odds of yes, `[n]` each."""
    yes = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    no = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return yes + no
