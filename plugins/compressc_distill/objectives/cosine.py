"""`cosine`: directions."""

from __future__ import annotations

from typing import ClassVar

from torch.nn import functional as F

from compressc.distillation import Objective, Seen, Unreduced, widened
from compressc.training import LEAST_VARIANCE


class Cosine(Objective):
    """Mean of 1 - cos(student, teacher), over that of the teacher's mean direction.

    For embeddings, whose length says nothing; 1 for a constant guess.
    """

    name: ClassVar[str] = "cosine"
    formula: ClassVar[str] = "mean_i (1 - cos(s_i, t_i)) / mean_i (1 - cos(mean t, t_i))"

    def __call__(self, seen: Seen) -> Unreduced:
        """For each row."""
        ours, theirs = widened(seen.student.rows), widened(seen.teacher.rows)
        mean = F.normalize(theirs, dim=-1).mean(0)
        constant = (1 - F.cosine_similarity(theirs, mean[None], dim=-1)).mean()
        missed = 1 - F.cosine_similarity(ours, theirs, dim=-1)
        return Unreduced("rows", [missed], [constant.clamp_min(LEAST_VARIANCE)])
