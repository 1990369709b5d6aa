"""`sp`: which samples are alike."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from torch import Tensor

from compressc.distillation import Seen, Unreduced
from compressc_distill.relations import COPIES, RelationObjective, unit


class Sp(RelationObjective):
    """Squared difference of the products of all samples, each row scaled to length 1."""

    name: ClassVar[str] = "sp"
    formula: ClassVar[str] = "mean_ij (g(s) - g(t))^2, g(x) = x x', its rows of length 1"
    paper: ClassVar[str] = "Tung and Mori 2019, arXiv 1907.09682, eq. 4"
    default_weight: ClassVar[float] = 3000.0
    exempt: ClassVar[Mapping[str, str]] = MappingProxyType(
        {**RelationObjective.exempt, "repetition": COPIES}
    )

    def __call__(self, seen: Seen) -> Unreduced:
        """For each pair."""
        ours, theirs = self.sides(seen)
        return Unreduced("pairs", [(_alike(ours) - _alike(theirs)).pow(2)])


def _alike(vectors: Tensor) -> Tensor:
    return unit(vectors @ vectors.mT)
