"""Putting parts of a quantized graph back to what they were: float layers that read floats."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from compressc.backend.integers import is_integer, moves_integers
from compressc.ir import Graph, Op, Ref
from compressc.ir.layer_building import copy_layer
from compressc.ir.ops import Arg, map_arg
from compressc.ir.quantized import DEQUANTIZE, QUANTIZE


@dataclass(frozen=True)
class Held:
    """A layer as it was before anything was rounded."""

    kind: str
    layer: nn.Module


def held_layers(graph: Graph) -> dict[str, Held]:
    """Op -> its layer, of a graph that is about to be quantized."""
    return {op.name: Held(op.kind, op.layer) for op in graph if op.layer is not None}


def rounded_ops(graph: Graph, before: Mapping[str, Held]) -> list[str]:
    """What can be put back one by one, in the order of the graph.

    Layers whose weight is rounded now, ops that read integers and compute, and outputs that are
    rounded, by the names of their values.

    Args:
        graph: quantized.
        before: of the same graph, by `held_layers`.
    """
    found = [op.name for op in graph if _weight_is_rounded(op, before) or _computes(graph, op)]
    return found + [name for name in dict.fromkeys(graph.output_names) if is_integer(graph, name)]


def restore(graph: Graph, names: Collection[str], before: Mapping[str, Held]) -> None:
    """Give these ops their layers back, and let them read floats.

    What only moved integers for them goes with them; a quantizer that others read stays.

    Args:
        graph: quantized, edited in place.
        names: of `rounded_ops`.
        before: what the layers were.
    """
    memo: dict[int, Any] = {}
    twins: dict[str, str] = {}
    outputs = set(graph.output_names)
    for name in names:
        op = graph[name]
        if _weight_is_rounded(op, before):
            held = before[name]
            graph.set_layer(name, copy_layer(held.layer, memo), held.kind)
        if name in outputs and is_integer(graph, name):
            value = _float_value(graph, name, twins)
            graph.outputs = map_arg(graph.outputs, _renaming({name: value}))
        else:
            _read_floats(graph, op, twins)
    _erase_unread(graph, twins)


def _weight_is_rounded(op: Op, before: Mapping[str, Held]) -> bool:
    return op.weight_form is not None and op.name in before and op.kind != before[op.name].kind


def _computes(graph: Graph, op: Op) -> bool:
    moves = moves_integers(op) or op.kind in (QUANTIZE, DEQUANTIZE)
    return not moves and any(is_integer(graph, name) for name in op.inputs)


def _read_floats(graph: Graph, op: Op, twins: dict[str, str]) -> None:
    integers = [name for name in op.inputs if is_integer(graph, name)]
    values = {name: _float_value(graph, name, twins) for name in integers}
    if values:
        graph.set_inputs(op.name, map_arg(op.args, _renaming(values)))


def _float_value(graph: Graph, name: str, twins: dict[str, str]) -> str:
    """The name of the same value without rounding; what moves it gets a twin that moves floats."""
    op = graph[name]
    if not is_integer(graph, name):
        return name
    if op.kind == DEQUANTIZE:  # what it rounds may be integers that moved
        return _float_value(graph, graph[op.inputs[0]].inputs[0], twins)
    if name not in twins:
        source = op.inputs[0]
        args = map_arg(op.args, _renaming({source: _float_value(graph, source, twins)}))
        layer = None if op.layer is None else copy_layer(op.layer, {})
        fresh = graph.fresh_name(f"{name}.float")
        twin = replace(op, name=fresh, args=args, layer=layer, kept=dict(op.kept))
        twins[name] = graph.insert_after(name, twin).name
    return twins[name]


def _renaming(values: Mapping[str, str]) -> Callable[[Arg], Arg]:
    return lambda arg: Ref(values.get(arg.name, arg.name)) if isinstance(arg, Ref) else arg


def _erase_unread(graph: Graph, twins: Mapping[str, str]) -> None:
    """Erase what only integers went through; an op whose twin alone is read takes its place."""
    outputs = set(graph.output_names)
    for op in reversed(list(graph)):
        goes = op.kind in (QUANTIZE, DEQUANTIZE) or op.name in twins
        if not goes or op.name in outputs or graph.users(op.name):
            continue
        if op.name in twins:
            twin = graph[twins[op.name]]
            graph.set_inputs(op.name, twin.args)
            graph.redirect(twin.name, op.name)
            graph.erase(twin.name)
        else:
            graph.erase(op.name)
