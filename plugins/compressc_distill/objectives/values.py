"""`values`: what every output is computed from, whatever it means."""

from __future__ import annotations

from typing import ClassVar

from compressc.distillation import Objective, Reading, Seen, Unreduced, point_of, weights_of
from compressc.training import LEAST_VARIANCE


class Values(Objective):
    """Mean squared difference of the last weighted op before each output, over its variance.

    For any task and without labels: detectors, segmenters, several outputs. What is behind the last
    weights (softmax, decoding, suppression) has nothing to learn. Each op counts alike, and 1 is a
    constant guess. The outputs that are not judged are no term of their own then.
    """

    name: ClassVar[str] = "values"
    reads: ClassVar[frozenset[Reading]] = frozenset({"heads"})
    formula: ClassVar[str] = "mean over last weighted ops of mean (s - t)^2 / var(t)"
    paper: ClassVar[str] = "PaddleSlim's automatic compression (ACT); here in units of the variance"

    def __call__(self, seen: Seen) -> Unreduced:
        """For each number of each sample, or position."""
        sides = zip(seen.student.heads, seen.teacher.heads, strict=True)
        points = [point_of(seen, *pair) for pair in sides]
        values = [(point.student - point.teacher).pow(2) for point in points]
        units = [
            point.counted(point.teacher).var(correction=0).clamp_min(LEAST_VARIANCE)
            for point in points
        ]
        return Unreduced("samples", values, units, weights_of(points))
