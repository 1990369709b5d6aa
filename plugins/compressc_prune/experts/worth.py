"""What the experts of a router are worth: how much is routed to them, or how large they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from compressc.analysis.coverage import parameters_of
from compressc.ir import Graph, Op, lower
from compressc.pipeline import Context
from compressc_prune.experts.routing import Experts
from compressc_prune.experts.unrouted import own_ops
from compressc_prune.measured import first_batches

#: Scores that are shares already, as they are chosen.
_SHARES = ("softmax", "sigmoid", "aten.softmax", "aten._softmax", "aten.sigmoid")
#: Samples that routing is counted on, and in a batch.
SAMPLES, BATCH = 256, 32


def worth_of(graph: Graph, found: Sequence[Experts], ctx: Context) -> list[Tensor]:
    """For each router what its experts are worth, f64[experts]."""
    if ctx.data is None:
        return [_sizes(graph, experts) for experts in found]
    return _routed(graph, found, ctx)


@torch.no_grad()
def _sizes(graph: Graph, experts: Experts) -> Tensor:
    """Squares of their weights, summed."""
    total = torch.zeros(experts.count, dtype=torch.float64)
    for name, dim in experts.weights.items():
        layer: Any = graph[name].layer
        value = layer.value
        if value.ndim > 1:
            total += value.double().movedim(dim, 0).flatten(1).square().sum(1)
    for name, number in own_ops(graph, experts, range(experts.count)).items():
        for _, tensor in parameters_of(graph[name]):
            total[number] += tensor.double().square().sum()
    return total


@torch.no_grad()
def _routed(graph: Graph, found: Sequence[Experts], ctx: Context) -> list[Tensor]:
    """How much each expert is chosen: sums of shares, else how often; of all, where none is."""
    assert ctx.data is not None
    sums = [torch.zeros(experts.count, dtype=torch.float64) for experts in found]
    read = [
        (experts, name, total)
        for experts, total in zip(found, sums, strict=True)
        for name in _read(graph, experts)
    ]
    module = lower(graph, also=[name for _, name, _ in read]).eval()
    for batch in first_batches(ctx.data.calibration, BATCH, SAMPLES):
        values = module(*batch.inputs)[1]
        for (experts, name, total), value in zip(read, values, strict=True):
            _count(graph[name], experts, value, total)
    return sums


def _read(graph: Graph, experts: Experts) -> list[str]:
    """The choices among single experts; without one the first shares of all."""
    every = [name for name in experts.choices if _chosen(graph, experts, name)]
    shares = [name for name in experts.scores if is_share(graph[name])]
    return every or (shares or [experts.router])[:1]


def _chosen(graph: Graph, experts: Experts, name: str) -> bool:
    """Whether a choice is among all experts, no groups and none of a group."""
    read = experts.scores[graph[name].inputs[0]]
    return not read.groups


def is_share(op: Op) -> bool:
    """Whether a value is made of shares by itself."""
    return op.kind in _SHARES or op.packet in _SHARES


def _count(op: Op, experts: Experts, value: Any, total: Tensor) -> None:
    """Add what a batch says to the worth of each expert."""
    if op.name in experts.scores:
        shares = value if is_share(op) else value.softmax(-1)
        dim = experts.scores[op.name].dim
        total += shares.double().movedim(dim, 0).flatten(1).sum(1)
        return
    scores, indices = value if isinstance(value, (tuple, list)) else (None, value)
    flat = indices.flatten()
    are_shares = scores is not None and bool((scores >= 0).all() and (scores <= 1).all())
    each = scores.double().flatten() if are_shares else torch.ones(len(flat), dtype=torch.float64)
    total.index_add_(0, flat, each)
