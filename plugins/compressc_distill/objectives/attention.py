"""`attention`: where each head of a transformer looks."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from compressc.distillation import Attention, Objective, Reading, Seen, Unreduced, widened
from compressc_distill.reading import counted, sides


class AttentionScores(Objective):
    """Mean squared error of attention scores before the softmax, at all layers that are matched.

    Head by head: where heads were pruned, those that are left are held against the teacher's they
    came from. Places that a mask leaves out do not count.
    """

    name: ClassVar[str] = "attention"
    reads: ClassVar[frozenset[Reading]] = frozenset({"attention"})
    formula: ClassVar[str] = "mean (q k' / sqrt(d) of s - of t)^2, over heads and pairs of places"
    paper: ClassVar[str] = "Jiao et al. 2020 (TinyBERT), arXiv 1909.10351, eq. 7"

    exempt: ClassVar[Mapping[str, str]] = MappingProxyType(
        {"gradient": "the values have no part in the scores"}
    )

    def check(self, seen: Seen) -> None:
        """Each layer of the student needs the heads of the teacher's, or to know which it kept."""
        for ours, theirs in sides(seen):
            heads = ours.query.shape[1], _heads(ours, theirs)
            if heads[0] != heads[1]:
                got = f"{heads[0]} heads for {heads[1]} of the teacher"
                hint = "minilm compares layers whatever their heads are"
                raise self.misfit("needs the teacher's heads, or heads kept of them", got, hint)

    def __call__(self, seen: Seen) -> Unreduced:
        """For each pair of places of each head."""
        values, weights = [], []
        for ours, theirs in sides(seen):
            scores = widened(theirs.scores())
            if ours.kept is not None:
                scores = scores[:, torch.tensor(ours.kept, device=scores.device)]
            values.append((widened(ours.scores()) - scores).pow(2))
            weights.append(_places(seen, ours).to(values[-1].dtype).expand_as(values[-1]))
        return Unreduced("positions", values, weights=weights)


def _heads(ours: Attention, theirs: Attention) -> int:
    return theirs.query.shape[1] if ours.kept is None else len(ours.kept)


def _places(seen: Seen, layer: Attention) -> Tensor:
    """Pairs (from, to) that count, bool broadcastable to `[b, heads, s, s]`."""
    queries, keys = counted(seen, layer)
    places = queries[:, None, :, None] & keys[:, None, None, :]
    return places if layer.allowed is None else places & layer.allowed
