"""Graph -> ATen GraphModule whose nodes know the op of the graph they came from.

nncf quantizes ATen graphs. Its decisions can be carried back only if each ATen node has the name
of the op it belongs to; `torch.export` keeps the path of the submodule a call was made in, so each
op becomes a submodule of its own.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from compressc.ir import Graph, lower
from compressc.ir.layer_building import copy_layer
from compressc.quiet import quiet


@dataclass(frozen=True)
class Traced:
    """A graph as ATen calls.

    Attributes:
        module: the calls; weights are `get_attr` nodes.
        origin: node name -> op name, for inputs, calls, and held tensors that are ops themselves.
    """

    module: fx.GraphModule
    origin: dict[str, str]


class _Call(nn.Module):
    """One op of the graph as a submodule."""

    def __init__(self, target: Callable[..., Any]) -> None:
        super().__init__()
        self.target = target

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the op computes."""
        return self.target(*args, **kwargs)


def trace(graph: Graph, example: tuple[torch.Tensor, ...]) -> Traced:
    """Export a graph at the example's sizes.

    All sizes are constants in the result: nncf cannot observe a graph whose views have symbolic
    sizes, and its decisions (scales, zero points, weights) do not depend on them.
    """
    lowered = lower(graph)
    paths: dict[str, str] = {}
    for number, node in enumerate(list(lowered.graph.nodes)):
        if "ir_op" not in node.meta:
            continue
        if node.op == "get_attr":
            paths[str(node.target)] = node.meta["ir_op"]
            continue
        path = f"call_{number}"
        is_layer = node.op == "call_module"
        # a copy: nncf mistakes a weight that two layers share for the weight of one
        target = copy_layer(lowered.get_submodule(node.target), {}) if is_layer else node.target
        lowered.add_submodule(path, _Call(target))
        node.op, node.target = "call_module", path
        paths[path] = node.meta["ir_op"]
    lowered.recompile()
    with quiet(), torch.no_grad():
        program = torch.export.export(lowered, example, strict=False)
        module = program.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    placeholders = [node.name for node in module.graph.nodes if node.op == "placeholder"]
    origin = dict(zip(placeholders, (op.name for op in graph.inputs), strict=True))
    for node in module.graph.nodes:
        found = _picked(graph, node, origin) or _origin(node, paths)
        if found is not None:
            origin[node.name] = found
    return Traced(module, origin)


def _picked(graph: Graph, node: fx.Node, origin: dict[str, str]) -> str | None:
    """Export picks the items of a tuple where the tuple is made, not where our graph picks them."""
    if node.target is not operator.getitem:
        return None
    made_by, index = node.args
    source = origin.get(made_by.name) if isinstance(made_by, fx.Node) else None
    if source is None:
        return None
    users = (op for op in graph.users(source) if op.kind == "getitem" and op.args[1] == index)
    return next((op.name for op in users), None)


def _origin(node: fx.Node, paths: dict[str, str]) -> str | None:
    if node.op == "get_attr":
        return paths.get(str(node.target))
    for path, _ in (node.meta.get("nn_module_stack") or {}).values():
        if path in paths:
            return paths[path]
    return None
