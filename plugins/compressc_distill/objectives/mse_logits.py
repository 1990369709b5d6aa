"""`mse_logits`: raw logits."""

from __future__ import annotations

from typing import ClassVar

from compressc.distillation import Objective, Seen, Unreduced, widened


class MseLogits(Objective):
    """Mean squared difference of the raw logits.

    Up to a factor and the mean of each row the limit of `kd` for a high temperature (Hinton et al.
    2015, eq. 4). Works for outputs that are no class scores, too.
    """

    name: ClassVar[str] = "mse_logits"
    formula: ClassVar[str] = "mean_ij (s_ij - t_ij)^2"
    paper: ClassVar[str] = "Kim et al. 2021, arXiv 2105.08919; Ba and Caruana 2014"

    def __call__(self, seen: Seen) -> Unreduced:
        """For each number of each row."""
        ours, theirs = widened(seen.student.rows), widened(seen.teacher.rows)
        return Unreduced("rows", [(ours - theirs).pow(2)])
