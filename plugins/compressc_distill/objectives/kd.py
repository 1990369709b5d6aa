"""`kd`: the teacher's distribution over the classes, softened."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from compressc.distillation import Objective, Seen, Unreduced, reduce, widened
from compressc.kernels import TopK, softmax_kl, softmax_kl_ce
from compressc.tasks import NO_LABEL
from compressc_distill.objectives.ce import CrossEntropy
from compressc_distill.objectives.temperature import number_of

#: Variances of logits below this are those of constant rows.
_LEAST = 1e-6


class Kd(Objective):
    """T^2 * KL(softmax(teacher/T) || softmax(student/T)).

    T^2 keeps the gradient of one size whatever T is. With `ce` beside it, one kernel computes both.
    Of a teacher whose answers are kept short it is the divergence of k + 1 events: the classes that
    are known, and any other.
    """

    name: ClassVar[str] = "kd"
    formula: ClassVar[str] = "T^2 * KL(softmax(t/T) || softmax(s/T))"
    paper: ClassVar[str] = "Hinton, Vinyals and Dean 2015, arXiv 1503.02531, section 2"
    shift_free: ClassVar[bool] = True

    T: Annotated[float, Field(gt=0, le=1000)] | Literal["auto", "adaptive"] = "auto"
    """Temperature: a higher one makes more of the unlikely classes. `auto` is 4, and 1 from 500
    classes on; `adaptive` is for each row how far the teacher's largest logit is above its mean
    (after Matsuyama et al. 2025, arXiv 2503.09030, which takes the logit itself), at least 1."""
    standardize: bool = False
    """Logits of each row are brought to mean 0 and standard deviation 1 first (Sun et al. 2024,
    arXiv 2403.01427): only their order and relative distance is learned. Its authors take T=2 and
    the weight 9."""

    def check(self, seen: Seen) -> None:
        """The softmax of a single class is 1 whatever the logit."""
        if seen.classes < 2:
            hint = "distill(objective=scaled_mse)"
            raise self.misfit("needs 2 classes or more", seen.classes, hint)

    def __call__(self, seen: Seen) -> Unreduced:
        """For each row."""
        ours, theirs = self._rows(seen)
        if self.T != "adaptive":
            return Unreduced("rows", [softmax_kl(ours, theirs, number_of(self.T, seen.classes))])
        assert isinstance(theirs, Tensor)  # see `takes_largest`
        theirs = widened(theirs)
        t = (theirs.amax(-1, keepdim=True) - theirs.mean(-1, keepdim=True)).clamp_min(1)
        values = softmax_kl(widened(ours) / t, theirs / t)
        return Unreduced("rows", [values * t.squeeze(-1) ** 2])

    def mean(self, seen: Seen) -> Tensor:
        """In one pass with the gradient, where all rows have one temperature."""
        if self.T == "adaptive":
            return reduce(self(seen))
        return softmax_kl(*self._rows(seen), number_of(self.T, seen.classes), reduction="mean")

    def fuses(self, other: Objective) -> bool:
        """Labels and teacher go through one kernel where both take the logits as they are."""
        return type(other) is CrossEntropy and not self.standardize and self.T != "adaptive"

    def fused(self, other: Objective, share: float, seen: Seen) -> Tensor | None:
        """Where the means of all rows are those of the cross entropy: each row has a label."""
        by, labels = seen.by_labels, seen.labels
        if by is None or labels is None or not by.cross_entropy or self.T == "adaptive":
            return None
        if seen.teacher.largest is not None or bool((labels == NO_LABEL).any()):
            return None
        rows, t = (seen.student.rows, seen.teacher.rows), number_of(self.T, seen.classes)
        return softmax_kl_ce(*rows, labels, t, kl_share=share, reduction="mean")

    def takes_largest(self, classes: int) -> bool:
        """Where the logits are taken as they are, at one temperature for all rows."""
        return not self.standardize and self.T != "adaptive"

    def kept_at(self, classes: int) -> float | None:
        """Its own temperature."""
        return None if self.T == "adaptive" else number_of(self.T, classes)

    def _rows(self, seen: Seen) -> tuple[Tensor, Tensor | TopK]:
        """Logits of student and teacher; the largest ones, where those are kept."""
        if seen.teacher.largest is not None:
            return seen.student.rows, seen.teacher.largest
        rows = seen.student.rows, seen.teacher.rows
        return (_standardized(rows[0]), _standardized(rows[1])) if self.standardize else rows


def _standardized(rows: Tensor) -> Tensor:
    rows = widened(rows)
    centred = rows - rows.mean(-1, keepdim=True)
    return centred / centred.pow(2).mean(-1, keepdim=True).clamp_min(_LEAST).sqrt()
