"""`hidden`: hidden states of a transformer."""

from __future__ import annotations

from typing import ClassVar

from compressc.distillation import FeatureObjective, Form, Seen, Unreduced, weights_of


class Hidden(FeatureObjective):
    """Mean squared error of hidden states; positions that are padding do not count.

    Takes sequences and vectors. Where the student is as wide as the teacher, or was cut from it,
    there is no projector; `hint` is the same in units of the teacher's variance.
    """

    name: ClassVar[str] = "hidden"
    takes: ClassVar[frozenset[Form]] = frozenset({"sequence", "vector"})
    formula: ClassVar[str] = "mean (s W - t)^2, W the identity where widths are equal"
    paper: ClassVar[str] = "Jiao et al. 2020 (TinyBERT), arXiv 1909.10351, eq. 8"

    def __call__(self, seen: Seen) -> Unreduced:
        """For each number of each position."""
        points = self.points(seen)
        values = [(point.student - point.teacher).pow(2) for point in points]
        return Unreduced("positions", values, weights=weights_of(points))
