"""An oracle: torch-pruning's dependency graph on the lowered graph.

It follows autograd functions and knows nothing of our rules. (Inside attention it maps indices
wrongly, so only *which* layers are coupled is compared, not the indices.)
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch_pruning as tp
from torch import nn
from torch_pruning._helpers import _HybridIndex
from torch_pruning.dependency import index_mapping

from compressc.analysis import Slot
from compressc.ir import Graph, lower, module_names, random_inputs

#: (op name, "in" or "out"): which side of a layer a width is.
Member = tuple[str, str]


def side(graph: Graph, slot: Slot) -> Member:
    layer = graph[slot.op].layer
    if slot.tensor == "weight" and isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
        dim = 1 - slot.dim if getattr(layer, "transposed", False) else slot.dim
        return slot.op, ("out", "in")[dim] if dim < 2 else "out"
    return slot.op, "out"


def dependency_groups(graph: Graph) -> list[set[Member]]:
    """torch-pruning's groups."""
    module = lower(graph.copy())  # it leaves hooks on layers
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
