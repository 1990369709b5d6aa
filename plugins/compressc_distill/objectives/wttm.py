"""`wttm`: `ttm` with more weight for rows that the teacher is unsure of."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from compressc.distillation import Seen, Unreduced, reduce, widened
from compressc.kernels import softmax_kl
from compressc_distill.objectives.ttm import Ttm


class Wttm(Ttm):
    """Weighted transformed teacher matching: each row of `ttm` times the sum of q_j^gamma.

    The factor is 1 where the teacher is sure, and the larger the smoother its distribution is.
    """

    name: ClassVar[str] = "wttm"
    formula: ClassVar[str] = "sum_j softmax(t)_j^gamma * KL(softmax(gamma * t) || softmax(s))"
    paper: ClassVar[str] = "Zheng and Yang 2024, arXiv 2402.11148"

    def __call__(self, seen: Seen) -> Unreduced:
        """For each row."""
        theirs = widened(seen.teacher.rows)
        power = (self.gamma * theirs.log_softmax(-1)).logsumexp(-1).exp()
        return Unreduced("rows", [power * softmax_kl(seen.student.rows, self.gamma * theirs)])

    def mean(self, seen: Seen) -> Tensor:
        """Weights that do not add up to the number of rows: not the kernel's mean."""
        return reduce(self(seen))
