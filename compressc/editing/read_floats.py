"""Parts of a graph that rounds values, computing in floats again; their weights stay stored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from compressc.analysis.integers import is_integer, moves_integers
from compressc.ir import Graph, Op, Ref
from compressc.ir.layer_building import copy_layer
from compressc.ir.ops import Arg, map_arg
from compressc.ir.quantized import DEQUANTIZE, QUANTIZE


def computes_on_integers(graph: Graph, op: Op) -> bool:
    """Whether an op reads integers, or rounds what it is given, and computes others of them."""
    moves = moves_integers(op) or op.kind in (QUANTIZE, DEQUANTIZE)
    reads = op.input_form is not None or any(is_integer(graph, name) for name in op.inputs)
    return reads and not moves


def read_floats(graph: Graph, names: Collection[str]) -> None:
    """Let ops read what was there before it was rounded, and outputs be it.

    What only moved integers for them goes with them; a quantizer that others read stays. A layer
    that rounds what it is given no longer does.

    Args:
        graph: edited in place.
        names: of ops that compute on integers, or of outputs that are integers.
    """
    twins: dict[str, str] = {}
    outputs = set(graph.output_names)
    for name in names:
        if name in outputs and is_integer(graph, name):
            value = _float_value(graph, name, twins)
            graph.outputs = map_arg(graph.outputs, _renaming({name: value}))
        else:
            _read_floats(graph, graph[name], twins)
    _erase_unread(graph, twins)


def _read_floats(graph: Graph, op: Op, twins: dict[str, str]) -> None:
    if op.input_form is not None and op.layer is not None:
        layer: Any = copy_layer(op.layer, {})
        layer._buffers, layer._parameters = dict(op.layer._buffers), dict(op.layer._parameters)
        layer.input_form = None  # with the same tensors: ties hold
        graph.set_layer(op.name, layer)
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
