"""`pkt`: which samples are neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from compressc.distillation import Seen, Unreduced
from compressc_distill.relations import COPIES, RelationObjective, others, unit


class Pkt(RelationObjective):
    """KL of how likely each sample is the neighbour of each other, by the cosine between them."""

    name: ClassVar[str] = "pkt"
    formula: ClassVar[str] = (
        "mean_ij p(t) log (p(t) / p(s)), p_ij = k_ij / sum_j k_ij, k = (cos + 1) / 2, j not i"
    )
    paper: ClassVar[str] = (
        "Passalis and Tefas 2018, arXiv 1803.10837, section 3; a mean over pairs as in their code"
    )
    default_weight: ClassVar[float] = 3e4
    exempt: ClassVar[Mapping[str, str]] = MappingProxyType(
        {**RelationObjective.exempt, "repetition": COPIES}
    )

    def __call__(self, seen: Seen) -> Unreduced:
        """For each pair."""
        ours, theirs = self.sides(seen)
        mine, its = _neighbours(ours), _neighbours(theirs)
        values = its * (_log(its) - _log(mine))
        return Unreduced("pairs", [values], weights=[others(ours)])


def _neighbours(vectors: Tensor) -> Tensor:
    """Probabilities `[b, b]`, 0 for a sample itself."""
    ways = unit(vectors)
    near = (ways @ ways.mT + 1) / 2 * others(vectors)
    return near / near.sum(1, keepdim=True).clamp_min(torch.finfo(near.dtype).eps)


def _log(share: Tensor) -> Tensor:
    return share.clamp_min(torch.finfo(share.dtype).eps).log()
