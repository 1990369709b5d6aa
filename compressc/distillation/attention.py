"""Attention layers of student and teacher: which stand for which, and what is read off them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from compressc.analysis.attention import AttentionLayer, find_attention
from compressc.distillation.points import evenly
from compressc.ir import Graph

#: What is added to a score that must not count is lower.
FORBIDDEN = -100.0


@dataclass(frozen=True)
class Attention:
    """What one attention layer works with.

    Attributes:
        query, key, value: `[b, heads, s, d]`; key and value may have fewer heads, each for several
            of the query.
        scale: factor on the products of query and key.
        bias: added to them where attention goes, `[b or 1, heads or 1, s, s]`, or None.
        allowed: where it goes, bool `[b or 1, heads or 1, s, s]`; None for everywhere.
        kept: of a student's layer: the teacher's heads that it still has; None for all.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    bias: Tensor | None = None
    allowed: Tensor | None = None
    kept: tuple[int, ...] | None = None

    def scores(self) -> Tensor:
        """What the softmax is taken of, `[b, heads, s, s]`, but for places it does not go to."""
        groups = self.query.shape[1] // self.key.shape[1]
        key = self.key.repeat_interleave(groups, 1) if groups > 1 else self.key
        scores = self.query @ key.mT * self.scale
        return scores if self.bias is None else scores + self.bias

    def parts(self) -> tuple[Tensor, ...]:
        """All tensors, `[b, ...]` each."""
        extra = (x for x in (self.bias, self.allowed) if x is not None)
        batch = len(self.query)
        wide = (x.expand(batch, *x.shape[1:]) for x in extra)
        return (self.query, self.key, self.value, *wide)

    def like(self, parts: Sequence[Tensor]) -> Attention:
        """Other tensors in the same order."""
        query, key, value, *rest = parts
        bias = rest.pop(0) if self.bias is not None else None
        allowed = rest.pop(0) if self.allowed is not None else None
        return replace(self, query=query, key=key, value=value, bias=bias, allowed=allowed)


@dataclass(frozen=True)
class AttentionPair:
    """A layer of the student and the one of the teacher it stands for.

    Attributes:
        student, teacher: the layers.
        kept: the teacher's heads that the student still has; None for all.
        by_depth: it is as deep, but does not descend from it.
    """

    student: AttentionLayer
    teacher: AttentionLayer
    kept: tuple[int, ...] | None = None
    by_depth: bool = False

    def __str__(self) -> str:
        """`attention matched with that of the teacher's %a, 2 of its heads`."""
        heads = "" if self.kept is None else f", {len(self.kept)} of its heads"
        how = " by depth" if self.by_depth else ""
        return f"attention matched{how} with that of the teacher's %{self.teacher.name}{heads}"


def pair_attention(student: Graph, teacher: Graph) -> list[AttentionPair]:
    """Layers by lineage, in the order of the student; layers that stand for none are left out."""
    theirs = {layer.name: layer for layer in find_attention(teacher)}
    pairs = []
    for layer in find_attention(student):
        lineage = student[layer.name].lineage
        if lineage and lineage[-1] in theirs:
            pairs.append(AttentionPair(layer, theirs[lineage[-1]], kept_heads(student, layer)))
    return pairs


def attention_by_depth(student: Graph, teacher: Graph) -> list[AttentionPair]:
    """Every layer of the net that has fewer, with as many evenly spaced ones of the other.

    TinyBERT (arXiv 1909.10351) calls it the uniform mapping.
    """
    ours, theirs = find_attention(student), find_attention(teacher)
    count = min(len(ours), len(theirs))
    pairs = zip(evenly(ours, count), evenly(theirs, count), strict=True)
    return [AttentionPair(mine, its, by_depth=True) for mine, its in pairs]


def kept_heads(graph: Graph, layer: AttentionLayer) -> tuple[int, ...] | None:
    """The teacher's heads that are left; None for all, or where heads are no dimension."""
    return graph[layer.query].kept.get(1)


def read_attention(layer: AttentionLayer, values: Mapping[str, Any], batch: int) -> Attention:
    """What a layer works with, of the values that a run of the graph has returned.

    Args:
        layer: which one.
        values: by name.
        batch: samples in the run.
    """
    query, key, value = (
        _with_heads(values[name], batch) for name in (layer.query, layer.key, layer.value)
    )
    key = key.mT if layer.key_transposed else key
    scale = query.shape[-1] ** -0.5 if layer.scale is None else layer.scale
    bias, allowed = None, None
    if layer.causal:
        allowed = query.new_ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()[None, None]
    for mask in layer.masks:
        found = _with_heads(values[mask.name], batch)
        if mask.kind == "added":
            goes = found > FORBIDDEN
            added = found.masked_fill(~goes, 0.0)
            bias = added if bias is None else bias + added
        else:
            goes = found == (mask.kind == "allowed")
        allowed = goes if allowed is None else allowed & goes
    return Attention(query, key, value, scale, bias, allowed)


def _with_heads(value: Tensor, batch: int) -> Tensor:
    """`[b * heads, s, d]` or `[s, s]` as `[b, heads, s, d]`."""
    if value.ndim == 3 and len(value) % batch == 0:
        return value.view(batch, len(value) // batch, *value.shape[1:])
    return value if value.ndim == 4 else value[(None,) * (4 - value.ndim)]
