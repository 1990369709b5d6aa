"""`at`: where on a map there is much going on."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from compressc.distillation import FeatureObjective, Form, Seen, Unreduced


class AttentionTransfer(FeatureObjective):
    """Squared difference of unit maps: the mean square over channels, scaled to length 1.

    Takes maps; they may have other channels than the teacher's.
    """

    name: ClassVar[str] = "at"
    takes: ClassVar[frozenset[Form]] = frozenset({"map"})
    by_channel: ClassVar[bool] = False
    formula: ClassVar[str] = "mean_ihw (q(s) - q(t))^2, q = mean_c x^2 over its length over h, w"
    paper: ClassVar[str] = (
        "Zagoruyko and Komodakis 2017, arXiv 1612.03928: a mean of squares as in their code; "
        "eq. 2 has the length of the difference"
    )
    default_weight: ClassVar[float] = 1000.0

    def __call__(self, seen: Seen) -> Unreduced:
        """For each pixel of each sample."""
        points = self.points(seen)
        return Unreduced("samples", [(_unit(p.student) - _unit(p.teacher)).pow(2) for p in points])


def _unit(feature: Tensor) -> Tensor:
    """`[b, c, h, w]` -> `[b, h * w]`."""
    return F.normalize(feature.pow(2).mean(1).flatten(1), dim=1)
