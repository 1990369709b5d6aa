"""What several objectives read of attention layers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from compressc.distillation import Attention, Seen


def sides(seen: Seen) -> Iterator[tuple[Attention, Attention]]:
    """Matched layers of student and teacher."""
    return zip(seen.student.attention, seen.teacher.attention, strict=True)


def counted(seen: Seen, layer: Attention) -> tuple[Tensor, Tensor]:
    """Positions of queries and of keys that count, bool `[b, s]` each.

    Padding does not: what `seen.valid` leaves out, and keys that nothing may look at.
    """
    batch, (queries, keys) = len(layer.query), (layer.query.shape[2], layer.key.shape[2])
    device = layer.query.device
    found = [torch.ones(batch, size, dtype=torch.bool, device=device) for size in (queries, keys)]
    if layer.allowed is not None:
        found[1] = found[1] & layer.allowed.flatten(1, -2).any(1)
        found[0] = found[1] if queries == keys else found[0]
    if seen.valid is not None:
        found = [x & seen.valid if x.shape == seen.valid.shape else x for x in found]
    return found[0], found[1]
