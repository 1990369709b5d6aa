"""A second opinion: torch-pruning's dependency graph on the lowered graph.

Two analyses that know nothing of each other, ours over op semantics and torch-pruning's over
autograd, must couple the same layers before anything is cut. (Inside attention torch-pruning maps
indices wrongly, so only *which* layers are coupled is compared, not the indices.)
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch_pruning as tp
from torch import nn
from torch_pruning._helpers import _HybridIndex
from torch_pruning.dependency import index_mapping

from compressc.analysis import Axis, Coupling, Slot
from compressc.ir import Graph, lower, module_names, random_inputs
from compressc.pipeline import Context

#: torch-pruning's tracing is far from linear: larger graphs rely on the IR's coupling alone.
MOST_OPS = 1500
#: What it raises on graphs that it cannot trace.
_THEIR_FAILURES = (
    RuntimeError,
    IndexError,
    KeyError,
    ValueError,
    AttributeError,
    TypeError,
    AssertionError,
)


def disagreements(graph: Graph, found: Coupling, ctx: Context) -> dict[Axis, str]:
    """Widths that torch-pruning would cut differently -> what it couples.

    Returns:
        Representative leaf -> reason not to cut it. Empty where torch-pruning cannot trace the
        graph; a note then says that only the IR's analysis was used.
    """
    if len(graph) > MOST_OPS:
        ctx.note(graph.name, f"no second opinion: more than {MOST_OPS} ops")
        return {}
    try:
        theirs = _dependency_groups(graph)
    except _THEIR_FAILURES as error:
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        ctx.note(graph.name, f"no second opinion: torch-pruning cannot trace it ({reason})")
        return {}
    refused = {}
    for width in found.widths():
        ours = {_side(graph, slot) for slot in width.slots}
        made = {(name, "out") for name in width.producers}
        for group in theirs:
            extra = {name for name, _ in group - ours}
            if group & made and extra and not width.axis.frozen:
                names = ", ".join(sorted(extra)[:3])
                refused[width.axis] = f"torch-pruning couples it with {names}, the IR does not"
    return refused


#: (op name, "in" or "out"): which side of a layer a width is.
Member = tuple[str, str]


def _side(graph: Graph, slot: Slot) -> Member:
    layer = graph[slot.op].layer
    if slot.tensor == "weight" and isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
        dim = 1 - slot.dim if getattr(layer, "transposed", False) else slot.dim
        return slot.op, ("out", "in")[dim] if dim < 2 else "out"
    return slot.op, "out"


def _dependency_groups(graph: Graph) -> list[set[Member]]:
    """torch-pruning's groups."""
    module = lower(graph)
    owner: dict[int, str] = {}
    for path, name in module_names(module).items():
        layer = module.get_submodule(path)
        owner[id(layer)] = owner[id(getattr(layer, "value", layer))] = name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dependency = tp.DependencyGraph().build_dependency(module, random_inputs(graph, batch=2))
        index_mapping.update_index_mapping(dependency)
    return [
        {(owner[id(layer)], side) for layer, side in members if id(layer) in owner}
        for members in _groups(dependency)
    ]


_STEPS_PER_NODE = 20
_IN = (tp.prune_linear_in_channels, tp.prune_conv_in_channels)


def _groups(dependency: Any) -> Iterator[list[tuple[nn.Module, str]]]:
    """The (layer, side) that go with the output channels of each convolution and linear layer.

    torch-pruning's own search never ends where rotary embeddings turn the indices of a layer; this
    one follows an index into a layer once, and gives up where even that does not end.
    """
    done: set[int] = set()
    for layer, node in list(dependency.module2node.items()):
        if not isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) or id(layer) in done:
            continue
        reached = _reached(dependency, layer, node)
        done |= {id(found) for found, side in reached if side == "out"}
        yield reached


def _reached(dependency: Any, layer: Any, node: Any) -> list[tuple[nn.Module, str]]:
    pruner = dependency.get_pruner_of_module(layer)
    depthwise = getattr(layer, "groups", 1) == pruner.get_out_channels(layer) > 1
    first = tp.prune_depthwise_conv_out_channels if depthwise else pruner.prune_out_channels
    indices = [_HybridIndex(i, i) for i in range(pruner.get_out_channels(layer))]
    seen: dict[tuple[Any, Any], set[int]] = {}
    stack = [(node, first, indices)]
    steps = _STEPS_PER_NODE * len(dependency.module2node)
    while stack:
        steps -= 1
        if steps < 0:  # indices past the end of a concatenation come round for ever
            raise RuntimeError("its search does not end")
        node, handler, indices = stack.pop()
        here = seen.setdefault((node, handler), set())
        if here.issuperset(index.idx for index in indices):
            continue
        here |= {index.idx for index in indices}
        for dep in node.dependencies:
            if dep.is_triggered_by(handler):
                mapped = indices
                for mapping in dep.index_mapping:
                    mapped = mapping(mapped) if mapping is not None else mapped
                if mapped:
                    stack.append((dep.target, dep.handler, mapped))
    return [(node.module, "in" if handler in _IN else "out") for node, handler in seen]
