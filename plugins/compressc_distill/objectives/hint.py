"""`hint`: inner values."""

from __future__ import annotations

from typing import ClassVar

from compressc.distillation import Objective, Reading, Seen, Unreduced, widened
from compressc.training import LEAST_VARIANCE


class Hint(Objective):
    """Mean over points of mse(student, teacher) / var(teacher): 1 for a constant guess.

    The student's channels are held against the very teacher channels that they came from, so there
    is no projector to train, as the paper needs one.
    """

    name: ClassVar[str] = "hint"
    reads: ClassVar[frozenset[Reading]] = frozenset({"features"})
    formula: ClassVar[str] = "mean over points of mean (s - t)^2 / var(t)"
    paper: ClassVar[str] = "Romero et al. 2015 (FitNets), arXiv 1412.6550, eq. 3, without projector"

    def __call__(self, seen: Seen) -> Unreduced:
        """For each number of each sample."""
        pairs = zip(seen.student.features, seen.teacher.features, strict=True)
        values = [(widened(ours) - widened(theirs)).pow(2) for ours, theirs in pairs]
        units = [
            widened(theirs).var(correction=0).clamp_min(LEAST_VARIANCE)
            for theirs in seen.teacher.features
        ]
        return Unreduced("samples", values, units)
