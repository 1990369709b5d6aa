"""Experts that a router chooses among: which of them stay, the proof, and the cut.

What is understood is a linear router whose scores go through a softmax or a sigmoid to the best k,
and stacked weights `[experts, ...]` that the choice reads. Experts go by how much of the routing
they have on calibration data (Muzio et al. 2024, SEER-MoE, arXiv 2404.05089, section 3.1: soft
counts), without data by the size of their weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compressc.analysis.arguments import argument
from compressc.analysis.coverage import Verdict, parameters_of
from compressc.errors import CompresscError
from compressc.ir import (
    Graph,
    Op,
    Ref,
    TensorType,
    fit_attributes,
    largest_error,
    lower,
    retype,
    run_graph,
)
from compressc.ir.moves import MOVES
from compressc.pipeline import Context
from compressc_prune.measured import first_batches
from compressc_prune.proof import TOLERANCE, real_inputs

#: What may lie between a router and its choice.
_SCORES = ("softmax", "sigmoid", "aten.softmax", "aten._softmax", "aten.sigmoid")
#: Moves that keep a choice what it is, number by number.
_KEEPS = ("same", "cast", "ones", "reshape")
#: Samples that routing is counted on, and in a batch.
SAMPLES, BATCH = 256, 32


@dataclass(frozen=True)
class Experts:
    """The experts of one router.

    Attributes:
        router: the linear layer that scores them.
        scores: ops from it to the choice.
        choice: the `topk`.
        count: of experts.
        picked: how many are chosen for each row.
        weights: the parameters `[count, ...]` that the choice reads.
    """

    router: str
    scores: tuple[str, ...]
    choice: str
    count: int
    picked: int
    weights: tuple[str, ...]

    def left(self, share: float) -> int:
        """How many stay: the share, rounded up from a half, but those that are chosen."""
        return max(1, self.picked, math.floor(self.count * share + 0.5))


def find_experts(graph: Graph) -> tuple[list[Experts], dict[str, str]]:
    """The experts of each router; and of choices that are none we can cut, why."""
    found, refused = [], {}
    for op in graph:
        if op.packet == "aten.topk":
            try:
                found.append(_experts(graph, op))
            except _NoExperts as reason:
                refused[op.name] = str(reason)
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
    for experts, worth in zip(found, _worth(graph, found, ctx), strict=True):
        count = experts.left(share)
        if count == experts.count:
            ctx.note(experts.router, f"all {count} experts stay: {experts.picked} are chosen")
            continue
        kept = worth.topk(count).indices.sort().values
        _cut_proved(graph, experts, kept, ctx)
        shares = ", ".join(f"{value:.3f}" for value in (worth / worth.sum()).tolist())
        ctx.note(experts.router, f"shares of experts by what they are worth: {shares}")


def slice_experts(graph: Graph, experts: Experts, kept: Tensor) -> None:
    """Keep some experts of a router: its rows, and their weights.

    Args:
        graph: edited in place.
        experts: of this very graph.
        kept: ascending indices i64[k] that stay.
    """
    router: Any = graph[experts.router].layer
    for layer, names in ((router, ("weight", "bias")), *_stacked(graph, experts)):
        for name in names:
            old = getattr(layer, name, None)
            if old is not None:
                layer._parameters[name] = nn.Parameter(
                    old.detach().index_select(0, kept).contiguous(), old.requires_grad
                )
    fit_attributes(graph[experts.router].kind, router)
    for name in (experts.router, *experts.weights):
        graph.set_layer(name, _layer(graph[name]))
    for name in (experts.router, *experts.scores):
        dims = len(graph.type_of(name).shape)
        graph.narrow(name, dims - 1, kept.tolist())
    for name in experts.weights:
        graph.narrow(name, 0, kept.tolist())
    retype(graph)


def with_fewer(graph: Graph, left: Graph) -> dict[str, Verdict]:
    """Ops of a graph that hold fewer experts in what is left of it."""
    found = {}
    for experts in find_experts(graph)[0]:
        name = experts.router
        if name not in left or graph[name].type == left[name].type:
            continue
        for name in (experts.router, *experts.weights):
            held = (local for local, _ in parameters_of(graph[name]))
            found[name] = Verdict.does("holds fewer experts", *held)
        found |= {name: Verdict.does("has fewer scores") for name in experts.scores}
    return found


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
    return copy


# ---- what experts are worth ----------------------------------------------------------------------


def _worth(graph: Graph, found: Sequence[Experts], ctx: Context) -> list[Tensor]:
    """For each router what its experts are worth, f64[experts]."""
    if ctx.data is None:
        return [_sizes(graph, experts) for experts in found]
    return _routed(graph, found, ctx)


@torch.no_grad()
def _sizes(graph: Graph, experts: Experts) -> Tensor:
    weights = [getattr(layer, names[0]) for layer, names in _stacked(graph, experts)]
    return torch.stack([w.double().flatten(1).square().sum(1) for w in weights]).sum(0)


@torch.no_grad()
def _routed(graph: Graph, found: Sequence[Experts], ctx: Context) -> list[Tensor]:
    """Sums of the scores that each expert is chosen with."""
    assert ctx.data is not None
    names = [experts.choice for experts in found]
    module = lower(graph, also=names).eval()
    sums = {
        name: torch.zeros(e.count, dtype=torch.float64)
        for name, e in zip(names, found, strict=True)
    }
    for batch in first_batches(ctx.data.calibration, BATCH, SAMPLES):
        for name, (scores, indices) in zip(names, module(*batch.inputs)[1], strict=True):
            sums[name].index_add_(0, indices.flatten(), scores.double().flatten())
    return [sums[experts.choice] for experts in found]


# ---- finding them --------------------------------------------------------------------------------


class _NoExperts(Exception):
    """A choice that is not understood; the message says why."""


def _experts(graph: Graph, choice: Op) -> Experts:
    scores = list(_back_to_router(graph, choice))
    router = graph[scores.pop(0)]
    count = int(_layer(router).weight.shape[0])
    size = len(graph.type_of(choice.inputs[0]).shape)
    dim = argument(choice, "dim")
    if int(-1 if dim is None else dim) % size != size - 1:
        raise _NoExperts("the choice is not along the scores")
    weights = list(_read_by(graph, choice, count))
    if not weights:
        raise _NoExperts("it chooses no stacked weights")
    for name in weights:
        if {user.packet for user in graph.users(name)} != {"aten.index"}:
            raise _NoExperts(f"%{name} is read by others, too")
    picked = int(argument(choice, "k"))
    return Experts(router.name, tuple(scores), choice.name, count, picked, tuple(weights))


def _back_to_router(graph: Graph, choice: Op) -> Iterator[str]:
    """From the router to the last value in front of the choice."""
    found = [choice.inputs[0]]
    reader = choice.name
    while True:
        op = graph[found[0]]
        if {user.name for user in graph.users(op.name)} != {
            reader
        } or op.name in graph.output_names:
            raise _NoExperts(f"the scores %{op.name} are read by others, too")
        if op.kind == "linear":
            return iter(found)
        hands_on = MOVES.get(op.packet) in ("same", "cast")
        if not (hands_on or op.kind in _SCORES or op.packet in _SCORES) or len(op.inputs) != 1:
            raise _NoExperts(f"%{op.name} stands between the choice and a linear layer")
        reader = op.name
        found.insert(0, op.inputs[0])


def _read_by(graph: Graph, choice: Op, count: int) -> Iterator[str]:
    """Parameters whose first dimension the choice reads; nothing else may read it."""
    values, indices = ([], [])  # type: tuple[list[str], list[str]]
    for user in graph.users(choice.name):
        (indices if user.kind == "getitem" and user.args[1] == 1 else values).append(user.name)
    while indices:
        name = indices.pop()
        for user in graph.users(name):
            if MOVES.get(user.packet) in _KEEPS:
                indices.append(user.name)
                continue
            held = user.args[0] if user.args else None
            weight = graph[held.name] if isinstance(held, Ref) else None
            stacked = (
                user.packet == "aten.index"
                and weight is not None
                and weight.kind == "parameter"
                and isinstance(weight.type, TensorType)
                and weight.type.shape[0] == count
                and user.args[1] == (Ref(name),)
            )
            if not stacked or weight is None:
                raise _NoExperts(f"%{user.name} reads the choice")
            yield weight.name
        if name in graph.output_names:
            raise _NoExperts("the choice is an output")


def _stacked(graph: Graph, experts: Experts) -> list[tuple[Any, tuple[str, ...]]]:
    """Layers that hold stacked weights, and what they are called there."""
    return [(_layer(graph[name]), ("value",)) for name in experts.weights]


def _layer(op: Op) -> Any:
    assert op.layer is not None
    return op.layer
