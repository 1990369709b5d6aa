"""Experts that a router chooses among or weights: which of them stay, the proof, and the cut.

Where they are says `routing`, from the scores of a linear layer on: stacked weights
`[experts, ...]` that the choice reads, or a layer for each. Experts go by how much of the routing
they have on calibration data (Muzio et al. 2024, SEER-MoE, arXiv 2404.05089, section 3.1: soft
counts), without data by the size of their weights.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from compressc.analysis.coverage import Verdict, parameters_of
from compressc.errors import CompresscError
from compressc.ir import Graph, Op, largest_error, run_graph
from compressc.pipeline import Context
from compressc_prune.experts.routing import Experts, NoExperts, Trace
from compressc_prune.experts.rules import made_of
from compressc_prune.experts.slicing import slice_experts
from compressc_prune.experts.unrouted import own_ops
from compressc_prune.experts.worth import is_share, worth_of
from compressc_prune.proof import TOLERANCE, real_inputs


def find_experts(graph: Graph) -> tuple[list[Experts], dict[str, str]]:
    """The experts of each router; and of choices that are none we can cut, why, by the router."""
    order = {op.name: number for number, op in enumerate(graph)}
    found: list[Experts] = []
    reasons: dict[str, str] = {}
    refused: dict[str, str] = {}
    for op in graph:
        if op.role == "linear":
            trace = Trace(graph, op, order)
            try:
                found.append(_checked(graph, trace.follow(made_of)))
            except NoExperts as reason:
                reasons[op.name] = str(reason)
                if trace.experts.choices:
                    refused[op.name] = str(reason)
    known = {name for experts in found for name in experts.choices}
    for op in graph:
        if op.packet == "aten.topk" and op.name not in known:
            source = _source(graph, op, known)
            if source not in known:
                why = reasons.get(source, "no linear layer makes its scores")
                refused[source or op.name] = why
    return found, refused


def cut_experts(graph: Graph, share: float, ctx: Context) -> None:
    """Leave a share of the experts of each router, with a note for each.

    The cut graph must compute what the full one does where the scores of those that go are minus
    infinity; a router of which that is not so keeps all.

    Args:
        graph: edited in place.
        share: of the experts that is left.
        ctx: of the pass.

    Raises:
        CompresscError: CC105 where there are no experts that can be cut.
    """
    found, refused = find_experts(graph)
    if not found:
        got = "; ".join(f"%{name}: {why}" for name, why in refused.items())
        raise CompresscError(
            "CC105",
            "pass 'prune' needs experts that a router chooses",
            got=got or "no choice of the best of some scores",
            hint="depth=0.5 or ratio=0.5 in place of experts=0.5",
        )
    for name, why in refused.items():
        ctx.note(name, f"no experts are cut here: {why}")
    for experts, worth in zip(found, worth_of(graph, found, ctx), strict=True):
        count = experts.left(share)
        if count == experts.count:
            ctx.note(experts.router, f"all {count} experts stay: no fewer can be chosen among")
            continue
        kept = _best(worth, count, experts.groups)
        _cut_proved(graph, experts, kept, ctx)
        shares = ", ".join(f"{value:.3f}" for value in (worth / worth.sum()).tolist())
        ctx.note(experts.router, f"shares of experts by what they are worth: {shares}")


def with_fewer(graph: Graph, left: Graph) -> dict[str, Verdict]:
    """Ops of a graph that hold fewer experts in what is left of it, or go with theirs."""
    found: dict[str, Verdict] = {}
    for experts in find_experts(graph)[0]:
        name = experts.router
        if name not in left or graph[name].type == left[name].type:
            continue
        found |= {name: Verdict.does("has fewer scores") for name in experts.scores}
        for name in (experts.router, *experts.weights):
            held = (local for local, _ in parameters_of(graph[name]))
            found[name] = Verdict.does("holds fewer experts", *held)
        for name in own_ops(graph, experts, range(experts.count)):
            if name not in left:
                held = (local for local, _ in parameters_of(graph[name]))
                found[name] = Verdict.does("goes with its expert", *held)
    return found


def _best(worth: Tensor, count: int, groups: int) -> Tensor:
    """Ascending indices of those that are worth most, as many of each group."""
    grouped = worth.reshape(groups, -1)
    best = grouped.topk(count // groups, -1).indices
    first = torch.arange(groups)[:, None] * grouped.shape[1]
    return (best + first).flatten().sort().values


def _cut_proved(graph: Graph, experts: Experts, kept: Tensor, ctx: Context) -> None:
    """Cut where the proof holds, with a note either way."""
    inputs, trouble = real_inputs(graph, ctx)
    text = f"kept {len(kept)} of {experts.count} experts: {', '.join(map(str, kept.tolist()))}"
    if inputs is None:
        text += f"; no proof: it does not run on the inputs ({trouble})"
    else:
        cut = graph.copy()
        slice_experts(cut, experts, kept)
        error = largest_error(
            run_graph(cut, inputs), run_graph(_masked(graph, experts, kept), inputs)
        )
        if not error <= TOLERANCE:
            ctx.note(experts.router, f"skipped experts: sliced is not masked, {error:.1%} off")
            return
    slice_experts(graph, experts, kept)
    ctx.note(", ".join((experts.router, *experts.weights)), text)


def _masked(graph: Graph, experts: Experts, kept: Tensor) -> Graph:
    """A copy in which the scores of all others are minus infinity."""
    copy = graph.copy()
    router: Any = copy[experts.router].layer
    masked = nn.Linear(router.in_features, router.out_features)
    masked.weight = router.weight
    bias = torch.zeros_like(router.weight[:, 0]) if router.bias is None else router.bias.detach()
    lost = torch.ones(experts.count, dtype=torch.bool)
    lost[kept] = False
    masked.bias = nn.Parameter(bias.masked_fill(lost, -math.inf), requires_grad=False)
    copy.set_layer(experts.router, masked)
    for name in experts.shifts:
        _shift(copy, name, experts.weights[name], lost)
    return copy


def _shift(graph: Graph, name: str, dim: int, lost: Tensor) -> None:
    """What is added to the scores of those that are lost makes them minus infinity."""
    layer: Any = graph[name].layer
    value = layer.value.detach()
    shape = [-1 if i == dim else 1 for i in range(value.ndim)]
    masked = value.masked_fill(lost.reshape(shape), -math.inf)
    if "value" in layer._parameters:
        layer._parameters["value"] = nn.Parameter(masked, requires_grad=False)
    else:
        layer._buffers["value"] = masked
    graph.set_layer(name, layer)


def _checked(graph: Graph, experts: Experts) -> Experts:
    """Experts that have weights of their own, and scores that say how much of each."""
    if experts.picks or experts.lists:
        if not experts.choices and not any(is_share(graph[name]) for name in experts.scores):
            raise NoExperts("its scores are no shares")
        own = own_ops(graph, experts, range(experts.count))
        having = {number for name, number in own.items() if parameters_of(graph[name])}
        if having != set(range(experts.count)):
            raise NoExperts("not each expert has weights of its own")
    elif not any(name not in experts.shifts for name in experts.weights):
        raise NoExperts("it chooses nothing that has weights")
    return experts


def _source(graph: Graph, choice: Op, known: Collection[str]) -> str:
    """The linear layer or the choice behind a choice, by first operands, or nothing."""
    op = choice
    while op.inputs:
        op = graph[op.inputs[0]]
        if op.role == "linear" or op.name in known:
            return op.name
    return ""
