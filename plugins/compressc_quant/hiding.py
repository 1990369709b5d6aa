"""Ops that nncf cannot observe, hidden from it so that it leaves them in float.

nncf takes every value for one f32 tensor: it wants the mean of a bool mask, and the shape of a
tuple. A call that is no operator of torch is unknown to it; it puts nothing in front of such a call
and goes on behind it. So what it cannot observe is called through a plain function.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx

from compressc.ir import Graph, Role
from compressc.ir.types import DTYPE_NAMES
from compressc_quant.tracing import Traced
from compressc_quant.verdicts import RECURRENT


def unobservable(graph: Graph, traced: Traced) -> dict[str, str]:
    """Nodes that nncf cannot observe, by their types: name -> why.

    A node has to read f32 tensors alone (an embedding's indices are never quantized) and make one
    f32 tensor. Of several results only those of a split, which nncf sees through, are let pass.

    A batch norm that simplify could not fold is hidden, too. nncf would fold it where the layer in
    front is shared with another norm, into a copy of the weight for each; and wherever it sees one,
    torchao exports 96 patterns of convolution and norm to look for, which takes a minute.
    """
    found: dict[str, str] = {}
    for node in traced.module.graph.nodes:
        if node.op != "call_function":
            continue
        source = node.args[0] if node.target is operator.getitem else None
        if isinstance(source, fx.Node):  # of a tuple: its item is hidden where the tuple is
            if source.name in found:
                found[node.name] = ""  # said of the tuple
            continue
        name = traced.origin.get(node.name)
        role = graph[name].role if name is not None else None
        reason = RECURRENT if role == "recurrent" else _reason(node, traced.module, role)
        if role == "batch_norm":
            found[node.name] = ""  # see below
        elif reason:
            found[node.name] = reason
    return found


def computes_floats(node: fx.Node, module: fx.GraphModule) -> bool:
    """Whether a node turns floats into floats: what int8 could have been thought of for."""
    return _floats(map(_value(module), node.all_input_nodes)) and _floats([node.meta.get("val")])


@contextmanager
def hidden(module: fx.GraphModule, names: Collection[str]) -> Iterator[None]:
    """Inside, the named calls are unknown to nncf; the module computes the same."""
    nodes = [node for node in module.graph.nodes if node.name in names]
    before = [(node.target, node.meta) for node in nodes]
    for node in nodes:
        node.target, node.meta = _unknown(node.target), _single(node.meta)
    module.recompile()
    try:
        yield
    finally:
        for node, (target, meta) in zip(nodes, before, strict=True):
            node.target, node.meta = target, meta
        module.recompile()


def _reason(node: fx.Node, module: fx.GraphModule, role: Role | None) -> str:
    result = node.meta.get("val")
    if isinstance(result, tuple | list):
        if not _is_split(node):
            return "it has several results"
    elif isinstance(result, torch.Tensor) and result.dtype is not torch.float32:
        return f"its result is {_name(result.dtype)}"
    operands = node.all_input_nodes
    if role == "embedding":
        operands = operands[:1]
    for value in map(_value(module), operands):
        if isinstance(value, torch.Tensor) and value.dtype is not torch.float32:
            return f"an operand of it is {_name(value.dtype)}"
    return ""


def _value(module: fx.GraphModule) -> Callable[[fx.Node], Any]:
    """Of a node: its tensor, on no device where it is computed."""

    def of(node: fx.Node) -> Any:
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(module)
        return node.meta.get("val")

    return of


def _floats(values: Any) -> bool:
    flat = (v for value in values for v in (value if isinstance(value, tuple | list) else [value]))
    return any(isinstance(v, torch.Tensor) and v.dtype.is_floating_point for v in flat)


def _is_split(node: fx.Node) -> bool:
    from nncf.torch.graph.operator_metatypes import PT_OPERATOR_METATYPES, PTSplitMetatype

    packet = getattr(node.target, "overloadpacket", None)
    name = str(packet).rpartition(".")[2]
    return PT_OPERATOR_METATYPES.get_operator_metatype_by_op_name(name) is PTSplitMetatype


def _name(dtype: torch.dtype) -> str:
    return DTYPE_NAMES.get(dtype, str(dtype).removeprefix("torch."))


def _single(meta: dict[str, Any]) -> dict[str, Any]:
    """nncf wants one shape of everything that a call makes, even where it leaves the call alone."""
    value = meta.get("val")
    if not isinstance(value, tuple | list):
        return meta
    return {**meta, "val": next((v for v in value if isinstance(v, torch.Tensor)), None)}


def _unknown(target: Any) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return target(*args, **kwargs)

    call.__name__ = call.__qualname__ = "not_observed"  # no operator that nncf has heard of
    return call
