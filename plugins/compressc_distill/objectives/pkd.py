"""`pkd`: how channels rise and fall together, whatever their size."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from compressc.distillation import FeatureObjective, Form, Seen, Unreduced

#: Added to deviations: a channel that is the same everywhere becomes 0.
TINY = 1e-6


class Pkd(FeatureObjective):
    """Half the squared difference of channels of mean 0 and deviation 1 over batch and pixels.

    That is 1 - Pearson's correlation of each channel. Takes maps.
    """

    name: ClassVar[str] = "pkd"
    takes: ClassVar[frozenset[Form]] = frozenset({"map"})
    formula: ClassVar[str] = "mean (z(s) - z(t))^2 / 2, z for each channel over n, h, w"
    paper: ClassVar[str] = "Cao et al. 2022, arXiv 2207.02039, section 3"
    default_weight: ClassVar[float] = 6.0

    def __call__(self, seen: Seen) -> Unreduced:
        """For each number of each sample."""
        points = self.points(seen)
        values = [(_standard(p.student) - _standard(p.teacher)).pow(2) / 2 for p in points]
        return Unreduced("samples", values)


def _standard(feature: Tensor) -> Tensor:
    """By channel of a map `[b, c, h, w]`; the deviation is that of all numbers, not of a sample."""
    centred = feature - feature.mean((0, 2, 3), keepdim=True)
    size = centred.pow(2).mean((0, 2, 3), keepdim=True)
    return centred / (size + TINY**2).sqrt()
