"""`queue`: which of the samples seen before a sample is like."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from compressc.distillation import Seen, Unreduced
from compressc.kernels import softmax_kl
from compressc_distill.relations import RelationObjective, unit


class Queue(RelationObjective):
    """KL of the softmax of cosines with the teacher's vectors of this batch and of those before it.

    Needs no labels and no classes. Another width than the teacher's gets a linear map, which is
    learned and dropped in the end. Epochs are compared by batches alone, without what is stored,
    which differs from epoch to epoch.
    """

    name: ClassVar[str] = "queue"
    formula: ClassVar[str] = (
        "mean_i KL(softmax_k(cos(t_i, q_k) / T) || softmax_k(cos(s_i, q_k) / T)), q stored"
    )
    paper: ClassVar[str] = "as LightlyTrain has it; Fang et al. 2021 (SEED), arXiv 2101.04731"
    exempt: ClassVar[Mapping[str, str]] = MappingProxyType({})

    T: Annotated[float, Field(gt=0, le=1000)] = 0.07
    """Temperature: a lower one looks at the nearest alone."""
    size: Annotated[int, Field(ge=1, le=1 << 20)] = 1024
    """How many of the teacher's vectors are stored, the latest ones."""

    def module(self, seen: Seen) -> nn.Module:
        """The queue, and the map where widths differ."""
        ours, theirs = self.sides(seen)
        return Stored(self.size, ours.shape[1], theirs.shape[1])

    def __call__(self, seen: Seen) -> Unreduced:
        """For each sample."""
        if not isinstance(seen.own, Stored):
            raise ValueError("queue needs the module that it made")
        ours, theirs = self.sides(seen)
        image, theirs = (unit(x) for x in (seen.own.project(ours), theirs))
        keys, counted = seen.own.keys(theirs)
        mine, its = (
            (x @ keys.mT / self.T).masked_fill(~counted, -math.inf) for x in (image, theirs)
        )
        return Unreduced("samples", [softmax_kl(mine, its)])


class Stored(nn.Module):
    """The latest vectors of a teacher, of length 1; part of every checkpoint.

    Args:
        size: how many.
        student, teacher: widths.
    """

    vectors: Tensor
    count: Tensor

    def __init__(self, size: int, student: int, teacher: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(size, teacher))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        same = student == teacher
        self.project = nn.Identity() if same else nn.Linear(student, teacher, bias=False)

    @torch.no_grad()
    def keys(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors `[k, d]` to compare with, and which of them there are; training stores the batch.

        Args:
            batch: the teacher's, `[b, d]`.
        """
        if not self.training:
            return batch, torch.ones(len(batch), dtype=torch.bool, device=batch.device)
        size = len(self.vectors)
        latest = batch[-size:]
        places = (self.count + torch.arange(len(latest), device=batch.device)) % size
        self.vectors[places] = latest.to(self.vectors.dtype)
        self.count += len(latest)
        return self.vectors.to(batch.dtype), torch.arange(size, device=batch.device) < self.count
