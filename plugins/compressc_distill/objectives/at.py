"""`at`: where on a map there is much going on."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from compressc.distillation import FeatureObjective, Form, Seen, Unreduced


class AttentionTransfer(FeatureObjective):
    """Squared distance of unit maps: the mean square over channels, scaled to length 1.

    A sum over pixels, so that a weight means the same whatever the size of a map: between 0 and 2.
    Takes maps; they may have other channels than the teacher's.
    """

    name: ClassVar[str] = "at"
    takes: ClassVar[frozenset[Form]] = frozenset({"map"})
    by_channel: ClassVar[bool] = False
    formula: ClassVar[str] = "mean_i sum_hw (q(s) - q(t))^2, q = mean_c x^2 over its length"
    paper: ClassVar[str] = (
        "Zagoruyko and Komodakis 2017, arXiv 1612.03928, eq. 2, squared as in the authors' code, "
        "which takes the mean over pixels and a weight of 1000: 5 for a sum over 14x14"
    )
    default_weight: ClassVar[float] = 5.0

    def __call__(self, seen: Seen) -> Unreduced:
        """For each sample."""
        sides = ((_unit(point.student), _unit(point.teacher)) for point in self.points(seen))
        return Unreduced("samples", [(ours - theirs).pow(2).sum(1) for ours, theirs in sides])


def _unit(feature: Tensor) -> Tensor:
    """`[b, c, h, w]` -> `[b, h * w]`."""
    return F.normalize(feature.pow(2).mean(1).flatten(1), dim=1)
