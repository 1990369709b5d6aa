"""Cutting experts out of a graph: rows of their router, their weights, what only they compute."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from compressc.analysis.arguments import argument, set_argument
from compressc.ir import Graph, Op, fit_attributes, retype
from compressc_prune.experts.routing import Experts, Written
from compressc_prune.experts.unrouted import drop


def slice_experts(graph: Graph, experts: Experts, kept: Tensor) -> None:
    """Keep some experts of a router: its rows, their weights, and what only they compute.

    Args:
        graph: edited in place.
        experts: of this very graph.
        kept: ascending indices i64[k] that stay; as many of each group.

    Raises:
        NoExperts: where a term of one that goes is no term of a sum; nothing is changed.
    """
    gone = set(range(experts.count)) - set(kept.tolist())
    drop(graph, experts, gone)
    router: Any = graph[experts.router].layer
    for local in ("weight", "bias"):
        _slice(router, local, 0, kept)
    fit_attributes(graph[experts.router].kind, router)
    graph.set_layer(experts.router, router)
    for name, dim in experts.weights.items():
        layer = _layer(graph[name])
        _slice(layer, "value", dim, kept)
        graph.set_layer(name, layer)
        graph.narrow(name, dim, kept.tolist())
    for name, number in experts.picks.items():
        if name in graph:
            _renumber(graph[name], int((kept < number).sum()))
    for written in experts.written:
        if written.op in graph:
            _rewrite(graph[written.op], written, len(kept) // experts.groups, experts.groups)
    for name, state in experts.scores.items():
        if name in graph and not state.groups:
            graph.narrow(name, state.dim, kept.tolist())
    retype(graph)


def _slice(layer: Any, local: str, dim: int, kept: Tensor) -> None:
    old = getattr(layer, local, None)
    if old is None:
        return
    new = old.detach().index_select(dim, kept).contiguous()
    if local in layer._parameters:
        layer._parameters[local] = nn.Parameter(new, old.requires_grad)
    else:
        layer._buffers[local] = new


def _renumber(op: Op, number: int) -> None:
    """An op that takes one expert's takes it where it is now."""
    if op.kind == "getitem":
        op.args = (op.args[0], number)
    elif op.packet == "aten.slice":
        set_argument(op, "start", number)
        set_argument(op, "end", number + 1)
    else:
        set_argument(op, "index" if op.packet == "aten.select" else "other", number)


def _rewrite(op: Op, written: Written, each: int, groups: int) -> None:
    """A count that is written down is another one now."""
    count = each if written.is_of_group else each * groups
    if written.place is None:
        set_argument(op, written.argument, count)
        return
    sizes = list(argument(op, written.argument))
    sizes[written.place] = count
    set_argument(op, written.argument, tuple(sizes))


def _layer(op: Op) -> Any:
    assert op.layer is not None
    return op.layer
