"""`rkd`: distances and angles between samples."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from compressc.distillation import Seen, Unreduced
from compressc_distill.relations import COPIES, RelationObjective, others, unit


class Rkd(RelationObjective):
    """Smooth L1 of distances over their mean, and of the cosines of angles of three samples.

    The mean is that of pairs of two samples: a sample's distance to itself, 0, has no part in it,
    nor in the loss.
    """

    name: ClassVar[str] = "rkd"
    formula: ClassVar[str] = (
        "distance * mean_ij l1(d_ij(s), d_ij(t)) + angle * mean_ijk l1(cos_ijk(s), cos_ijk(t)), "
        "l1 smooth, d_ij = |x_i - x_j| over its mean"
    )
    paper: ClassVar[str] = "Park et al. 2019, arXiv 1904.05068, section 3.2; weights 25 and 50"
    default_weight: ClassVar[float] = 25.0
    exempt: ClassVar[Mapping[str, str]] = MappingProxyType(
        {**RelationObjective.exempt, "repetition": COPIES}
    )

    distance: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the distances."""
    angle: Annotated[float, Field(ge=0)] = 2.0
    """Weight of the angles."""

    def __call__(self, seen: Seen) -> Unreduced:
        """For each pair, and for each three samples."""
        ours, theirs = self.sides(seen)
        pairs = others(ours)
        far = F.smooth_l1_loss(_distances(ours), _distances(theirs), reduction="none")
        turned = F.smooth_l1_loss(_angles(ours), _angles(theirs), reduction="none")
        triples = pairs[:, :, None] * pairs[:, None, :] * pairs[None]
        values = [2 * self.distance * far, 2 * self.angle * turned]  # a sum, no mean
        return Unreduced("pairs", values, weights=[pairs, triples])


def _distances(vectors: Tensor) -> Tensor:
    """Over their mean, `[b, b]`."""
    found = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    pairs = others(vectors)
    mean = (found * pairs).sum() / pairs.sum().clamp_min(1.0)
    return found / mean.clamp_min(torch.finfo(found.dtype).eps)


def _angles(vectors: Tensor) -> Tensor:
    """Cosine of the angle at sample i between j and k, `[b, b, b]`."""
    ways = unit(vectors[None] - vectors[:, None])
    return ways @ ways.mT
