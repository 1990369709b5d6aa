"""`hint`: inner values."""

from __future__ import annotations

from typing import ClassVar

from compressc.distillation import FeatureObjective, Seen, Unreduced, weights_of
from compressc.training import LEAST_VARIANCE


class Hint(FeatureObjective):
    """Mean over points of mse(student, teacher) / var(teacher): 1 for a constant guess.

    The student's channels are held against the very teacher channels that they came from, so there
    is no projector to train, as the paper needs one; a student of another family has one. Takes
    features of any shape; of sequences, positions that are padding do not count.
    """

    name: ClassVar[str] = "hint"
    formula: ClassVar[str] = "mean over points of mean (s - t)^2 / var(t)"
    paper: ClassVar[str] = "Romero et al. 2015 (FitNets), arXiv 1412.6550, eq. 3"

    def __call__(self, seen: Seen) -> Unreduced:
        """For each number of each sample."""
        points = self.points(seen)
        values = [(point.student - point.teacher).pow(2) for point in points]
        units = [
            point.counted(point.teacher).var(correction=0).clamp_min(LEAST_VARIANCE)
            for point in points
        ]
        return Unreduced("samples", values, units, weights_of(points))
