"""`graph`: who is whose neighbour, as the teacher has it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from compressc.distillation import Seen, Unreduced
from compressc_distill.relations import COPIES, RelationObjective, unit


class NeighbourGraph(RelationObjective):
    """Divergence of two graphs: samples are nodes, with edges to the teacher's nearest neighbours.

    An edge has the share of its cosine among those to all other samples, at the temperature `T`.
    The student has the same edges, with its own shares; what is left for all samples that are no
    neighbours counts as one more edge, so that none of them may come near. Neighbours are those
    of the batch, or of `memory` samples that were seen last, too: these are nodes without edges of
    their own, in the checkpoint. Epochs are compared on the batch alone.
    """

    name: ClassVar[str] = "graph"
    formula: ClassVar[str] = (
        "mean_i sum_e p_i,e * log(p_i,e / q_i,e), e the k nearest others of t_i and all the rest, "
        "p, q = softmax_j(cos(i, j) / T) of teacher and student"
    )
    paper: ClassVar[str] = (
        "after Liu et al. 2019, CVPR (instance relationship graph), and Lassance et al. 2020, "
        "arXiv 1911.03080 (graphs of k nearest neighbours); edges are compared as shares here, and "
        "what is no edge counts as one"
    )
    exempt: ClassVar[Mapping[str, str]] = MappingProxyType(
        {**RelationObjective.exempt, "repetition": COPIES}
    )

    k: Annotated[int, Field(ge=1, le=1 << 12)] = 8
    """Neighbours of a sample; in a smaller batch all others."""
    T: Annotated[float, Field(gt=0, le=1000)] = 0.1
    """Temperature of the shares."""
    memory: Annotated[int, Field(ge=0, le=1 << 20)] = 0
    """Samples of earlier batches that are nodes, too."""

    def module(self, seen: Seen) -> nn.Module | None:
        """What was seen last."""
        ours, theirs = self.sides(seen)
        return Nodes(self.memory, ours.shape[1], theirs.shape[1]) if self.memory else None

    def __call__(self, seen: Seen) -> Unreduced:
        """For each sample."""
        ours, theirs = (unit(vectors) for vectors in self.sides(seen))
        at = torch.arange(len(ours)) if seen.positions is None else seen.positions
        every, at = (ours, theirs), at.to(ours.device)
        same = torch.eye(len(ours), dtype=torch.bool, device=ours.device)
        learning = torch.is_grad_enabled()  # else epochs are compared
        if isinstance(seen.own, Nodes) and seen.own.training and learning:
            every, before = seen.own.joined(ours, theirs)
            if seen.positions is None:  # nobody knows who they are
                before = torch.full_like(before, -1)
            same = torch.cat([same, at[:, None] == before], 1)
            seen.own.remember(ours, theirs, at)
        if len(every[0]) < 2:
            return Unreduced("samples", [0.0 * ours.sum(-1)])
        student, teacher = (
            (side @ nodes.mT / self.T).masked_fill(same, -torch.inf).log_softmax(-1)
            for side, nodes in zip((ours, theirs), every, strict=True)
        )
        return Unreduced("samples", [self._divergence(student, teacher, same)])

    def _divergence(self, student: Tensor, teacher: Tensor, same: Tensor) -> Tensor:
        """Of the logs of the shares of nodes `[b, n]`, those that are the sample itself marked."""
        count = min(self.k, int((~same).sum(-1).min()))
        edges, near = teacher.topk(count, -1)
        values = (edges.exp() * (edges - student.gather(-1, near))).sum(-1)
        counted = same.scatter(-1, near, True)
        if bool(counted.all()):
            return values
        left, ours = (x.masked_fill(counted, -torch.inf).logsumexp(-1) for x in (teacher, student))
        some = ~counted.all(-1)
        rest = torch.where(some, left, 0.0) - torch.where(some, ours, 0.0)
        return values + left.exp() * rest


class Nodes(nn.Module):
    """The vectors of the samples that were seen last; part of every checkpoint.

    Args:
        size: how many.
        student, teacher: widths.
    """

    ours: Tensor
    theirs: Tensor
    positions: Tensor
    seen: Tensor

    def __init__(self, size: int, student: int, teacher: int) -> None:
        super().__init__()
        self.register_buffer("ours", torch.zeros(size, student))
        self.register_buffer("theirs", torch.zeros(size, teacher))
        self.register_buffer("positions", torch.full((size,), -1))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def joined(self, ours: Tensor, theirs: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """The samples of a batch and those that were seen last; the positions of the latter."""
        count = min(int(self.seen), len(self.ours))
        both = zip((ours, theirs), (self.ours, self.theirs), strict=True)
        mine, its = (torch.cat([now, then[:count].to(now.dtype)]) for now, then in both)
        return (mine, its), self.positions[:count]

    @torch.no_grad()
    def remember(self, ours: Tensor, theirs: Tensor, at: Tensor) -> None:
        """Put the samples of a batch, at these positions, in the place of those seen first."""
        room = len(self.ours)
        last = min(len(ours), room)
        places = (torch.arange(last, device=self.ours.device) + self.seen) % room
        self.ours[places] = ours[-last:].to(self.ours.dtype)
        self.theirs[places] = theirs[-last:].to(self.theirs.dtype)
        self.positions[places] = at[-last:]
        self.seen += last
