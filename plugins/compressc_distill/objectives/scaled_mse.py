"""`scaled_mse`: values in units of what is to be hit."""

from __future__ import annotations

from typing import ClassVar

from compressc.distillation import Objective, Seen, Unreduced, widened
from compressc.training import variance


class ScaledMse(Objective):
    """Mean squared difference over the teacher's variance: 1 for a constant guess.

    For values, whatever their unit is.
    """

    name: ClassVar[str] = "scaled_mse"
    formula: ClassVar[str] = "mean_ij (s_ij - t_ij)^2 / mean_j var_i(t_ij)"

    def __call__(self, seen: Seen) -> Unreduced:
        """For each number of each row."""
        ours, theirs = widened(seen.student.rows), widened(seen.teacher.rows)
        return Unreduced("rows", [(ours - theirs).pow(2)], [variance(theirs)])
