"""A second opinion: torch-pruning's dependency graph on the lowered graph.

Two analyses that know nothing of each other, ours over op semantics and torch-pruning's over
autograd, must couple the same layers before anything is cut. (Inside attention torch-pruning maps
indices wrongly, so only *which* layers are coupled is compared, not the indices.)
"""

from __future__ import annotations

import warnings

import torch
import torch_pruning as tp
from torch import nn

from compressc.analysis import Axis, Coupling, Slot
from compressc.ir import Graph, TensorType, lower, module_names
from compressc.pipeline import Context

#: torch-pruning's tracing is far from linear: larger graphs rely on the IR's coupling alone.
MOST_OPS = 1500


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
    except (RuntimeError, IndexError, KeyError, ValueError, AttributeError, TypeError) as error:
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
        dependency = tp.DependencyGraph().build_dependency(module, _example(graph))
    into = (tp.prune_linear_in_channels, tp.prune_conv_in_channels)
    return [
        {
            (owner[id(dep.target.module)], "in" if dep.handler in into else "out")
            for dep, _ in group
            if id(dep.target.module) in owner
        }
        for group in dependency.get_all_groups()
    ]


def _example(graph: Graph) -> tuple[torch.Tensor, ...]:
    """Inputs for tracing; every open dimension is 2."""
    env = {str(s): 2 for op in graph.inputs for s in _symbols(op.type)}
    inputs = []
    for op in graph.inputs:
        assert isinstance(op.type, TensorType)
        shape = [TensorType(op.type.dtype, (size,)).numel(env) for size in op.type.shape]
        floating = op.type.dtype.is_floating_point
        blank = torch.randn(shape) if floating else torch.zeros(shape)
        inputs.append(blank.to(op.type.dtype))
    return tuple(inputs)


def _symbols(type_: object) -> set[object]:
    assert isinstance(type_, TensorType)
    return {s for size in type_.shape if not isinstance(size, int) for s in size.free_symbols}
