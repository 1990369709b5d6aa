"""What objectives share that compare samples with one another."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from compressc.distillation import Objective, Reading, Seen, widened

#: Why the same batch twice is another loss.
COPIES = "a sample and its copy are one more pair"


class RelationObjective(Objective):
    """A distillation loss of how the samples of a batch lie to one another.

    The student's vectors may have another width than the teacher's. A batch of one sample has
    nothing to compare: its loss is 0.
    """

    reads: ClassVar[frozenset[Reading]] = frozenset({"vectors"})
    exempt: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"descent": "half way to the teacher samples may lie otherwise than at either end"}
    )

    def check(self, seen: Seen) -> None:
        """A number by itself has no direction."""
        for vectors in _sides(seen):
            if vectors.ndim != 2 or vectors.shape[1] < 2:
                got = f"shape {[*vectors.shape[1:]]}"
                raise self.misfit("needs vectors of 2 numbers or more", got, "scaled_mse")

    def sides(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """Vectors of student and teacher, `[b, d]` each, in float32 or better."""
        ours, theirs = _sides(seen)
        return widened(ours), widened(theirs)


def _sides(seen: Seen) -> tuple[Tensor, Tensor]:
    ours, theirs = seen.student.vectors, seen.teacher.vectors
    if ours is None or theirs is None:
        raise ValueError("relations need vectors")
    return ours, theirs


def others(vectors: Tensor) -> Tensor:
    """1 for a pair of two samples, 0 for a sample with itself, `[b, b]`."""
    return 1 - torch.eye(len(vectors), dtype=vectors.dtype, device=vectors.device)


def unit(vectors: Tensor) -> Tensor:
    """Scaled to length 1 along the last dimension; 0 stays 0, and has no gradient."""
    size = vectors.pow(2).sum(-1, keepdim=True)
    none = size <= torch.finfo(vectors.dtype).tiny
    return (vectors / size.masked_fill(none, 1.0).sqrt()).masked_fill(none, 0.0)
