"""`nst`: which patterns over a map there are, whatever the channel."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from compressc.distillation import FeatureObjective, Form, Seen, Unreduced


class Nst(FeatureObjective):
    """Maximum mean discrepancy of the channels, as patterns over the pixels, by the kernel (x.y)^2.

    Channels are scaled to length 1. Takes maps; they may have other channels than the teacher's.
    """

    name: ClassVar[str] = "nst"
    takes: ClassVar[frozenset[Form]] = frozenset({"map"})
    by_channel: ClassVar[bool] = False
    formula: ClassVar[str] = "mean_cc' (s_c.s_c')^2 + mean (t_c.t_c')^2 - 2 * mean (s_c.t_c')^2"
    paper: ClassVar[str] = "Huang and Wang 2017, arXiv 1707.01219, section 4, polynomial kernel"
    default_weight: ClassVar[float] = 50.0

    def __call__(self, seen: Seen) -> Unreduced:
        """For each sample."""
        values = []
        for point in self.points(seen):
            ours, theirs = (
                F.normalize(x.flatten(2), dim=2) for x in (point.student, point.teacher)
            )
            values.append(_discrepancy(ours, theirs))
        return Unreduced("samples", values)


def _discrepancy(ours: Tensor, theirs: Tensor) -> Tensor:
    """Of channels `[b, c, p]`, at the cost of the smaller of c and p.

    The sum of (x.y)^2 over all pairs is the product of the p x p matrices X'X and Y'Y.
    """
    if ours.shape[2] <= max(ours.shape[1], theirs.shape[1]):
        grams = (x.mT @ x / x.shape[1] for x in (ours, theirs))
        first, second = grams
        return (first - second).pow(2).sum((1, 2))
    return _kernel(ours, ours) + _kernel(theirs, theirs) - 2 * _kernel(ours, theirs)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.mT).pow(2).mean((1, 2))
