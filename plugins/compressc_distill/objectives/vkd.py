"""`vkd`: hidden vectors through an orthogonal map."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import orthogonal

from compressc.distillation import (
    FeatureObjective,
    Form,
    Point,
    Seen,
    Unreduced,
    channel_dim,
    one_each,
)


class Vkd(FeatureObjective):
    """Smooth L1 of an orthogonal image of the student's vector and the teacher's, layer-normed.

    A map that is orthogonal keeps all distances, so that the projector cannot do the student's
    work. Takes vectors, maps and sequences, which are meant over pixels, and over positions that
    are no padding; the student may have any width.
    """

    name: ClassVar[str] = "vkd"
    takes: ClassVar[frozenset[Form]] = frozenset({"map", "sequence", "vector"})
    by_channel: ClassVar[bool] = False
    formula: ClassVar[str] = "mean smooth_l1(Q s, layer_norm(t)), Q orthogonal, s and t pooled"
    paper: ClassVar[str] = "Miles et al. 2024 (VkD), arXiv 2403.06213, section 3"

    def module(self, seen: Seen) -> nn.Module:
        """An orthogonal map for each point."""
        return nn.ModuleList(_orthogonal(point) for point in self.points(seen))

    def __call__(self, seen: Seen) -> Unreduced:
        """For each number of each sample."""
        if not isinstance(seen.own, nn.ModuleList):
            raise ValueError("vkd needs the module that it made")
        values = []
        for point, projector in zip(self.points(seen), seen.own, strict=True):
            ours, theirs = (one_each(x, point.valid) for x in (point.student, point.teacher))
            image = projector(ours)
            values.append(F.smooth_l1_loss(image, _normed(theirs), reduction="none"))
        return Unreduced("samples", values)


def _orthogonal(point: Point) -> nn.Module:
    ours, theirs = (x.shape[channel_dim(x)] for x in (point.student, point.teacher))
    return orthogonal(nn.Linear(ours, theirs, bias=False))


def _normed(vectors: Tensor) -> Tensor:
    return F.layer_norm(vectors, vectors.shape[-1:])
