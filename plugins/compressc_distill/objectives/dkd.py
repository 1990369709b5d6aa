"""`dkd`: the target class and the others apart."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from compressc.distillation import Objective, Reading, Seen, Unreduced
from compressc.kernels import softmax_kl


class Dkd(Objective):
    """Decoupled distillation: the KL of (target, not target) + beta * that of the other classes.

    Both times T^2. Rows without a label have the teacher's answer as their target.
    """

    name: ClassVar[str] = "dkd"
    reads: ClassVar[frozenset[Reading]] = frozenset({"rows", "labels"})
    formula: ClassVar[str] = "T^2 * (KL of (y, not y) + beta * KL of the classes without y)"
    paper: ClassVar[str] = "Zhao et al. 2022, arXiv 2203.08679, eq. 7"
    shift_free: ClassVar[bool] = True

    T: Annotated[float, Field(gt=0, le=1000)] = 4.0
    """Temperature: a higher one makes more of the unlikely classes."""
    beta: Annotated[float, Field(ge=0, le=1000)] = 8.0
    """Weight of what the teacher says about the other classes. The paper takes up to 10, more for a
    more confident teacher."""

    def check(self, seen: Seen) -> None:
        """The second term needs two classes that are not the target."""
        if seen.classes < 3:
            raise self.misfit("needs 3 classes or more", seen.classes, "distill(objective=kd)")

    def __call__(self, seen: Seen) -> Unreduced:
        """For each row."""
        student, teacher = seen.student.rows, seen.teacher.rows
        is_target = F.one_hot(targets(seen), seen.classes).bool()
        ours, theirs = (_target_or_not(x / self.T, is_target) for x in (student, teacher))
        target_loss = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
        ours, theirs = (x[~is_target].view(len(x), -1) for x in (student, teacher))
        others_loss = softmax_kl(ours, theirs, self.T)
        return Unreduced("rows", [target_loss * self.T**2 + self.beta * others_loss])


def targets(seen: Seen) -> Tensor:
    """The class of each row by its label, i64[n]; by the teacher where it has none."""
    answers = seen.teacher.rows.argmax(-1)
    return answers if seen.labels is None else torch.where(seen.labels < 0, answers, seen.labels)


def _target_or_not(logits: Tensor, is_target: Tensor) -> Tensor:
    """log (p(target), p(not target)): `[n, v]` -> `[n, 2]`."""
    logs = logits.log_softmax(-1)
    infinity = float("inf")
    return torch.stack(
        [
            logs.masked_fill(~is_target, -infinity).logsumexp(-1),
            logs.masked_fill(is_target, -infinity).logsumexp(-1),
        ],
        dim=-1,
    )
