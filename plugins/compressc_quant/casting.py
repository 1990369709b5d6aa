"""`quant(mode=cast)`: all floats inside a model in 16 bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compressc.analysis.coverage import Verdict, parameters_of
from compressc.ir import Graph, Op, Ref, TensorType, retype
from compressc.ir.ops import Arg, map_arg

#: What `to` may be -> the dtype.
TYPES = {"bf16": torch.bfloat16, "f16": torch.float16}
_FROM = torch.float32
_CAST = "aten.to.dtype"


def cast(graph: Graph, dtype: torch.dtype) -> None:
    """Convert weights, constants and values in place; inputs and outputs stay f32.

    Numbers beyond the largest of the type, as masks have them, become that one.

    Args:
        graph: in f32.
        dtype: a float type of 16 bits.
    """
    made: dict[int, Tensor] = {}  # by identity: what is tied stays tied
    kept: list[Tensor] = []
    for op in graph:
        if op.layer is not None:
            tables: tuple[dict[str, Any], ...] = (op.layer._parameters, op.layer._buffers)
            for held in tables:
                for name, tensor in held.items():
                    if tensor is not None and tensor.dtype is _FROM:
                        kept.append(tensor)
                        held[name] = made.setdefault(id(tensor), _converted(tensor, dtype))
        op.args, op.kwargs = map_arg(op.args, _plain(dtype)), map_arg(op.kwargs, _plain(dtype))
    for op in graph.inputs:
        if graph.type_of(op.name).dtype is _FROM and graph.users(op.name):
            narrow = _cast_behind(graph, op, dtype)
            graph.redirect(op.name, narrow, but=[narrow])
    retype(graph)
    for name in dict.fromkeys(graph.output_names):
        if graph.type_of(name).dtype is dtype:
            wide = _cast_behind(graph, graph[name], _FROM)
            graph.outputs = map_arg(graph.outputs, _renaming(name, wide))
    retype(graph)


def cast_verdicts(graph: Graph, to: str) -> Mapping[str, Verdict]:
    """What becomes of each op."""
    return {
        op.name: Verdict.does(f"computed in {to}", *(name for name, _ in parameters_of(op)))
        for op in graph
    }


def _converted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    most = torch.finfo(dtype).max
    finite = tensor.detach().clamp(-most, most)
    value = torch.where(tensor.detach().isinf(), tensor.detach(), finite).to(dtype)
    return nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value


def _plain(dtype: torch.dtype) -> Any:
    most = torch.finfo(dtype).max

    def change(arg: Arg) -> Arg:
        if arg is _FROM:
            return dtype
        if isinstance(arg, float) and most < abs(arg) < float("inf"):
            return most if arg > 0 else -most
        return arg

    return change


def _renaming(old: str, new: str) -> Any:
    return lambda arg: Ref(new) if arg == Ref(old) else arg


def _cast_behind(graph: Graph, op: Op, dtype: torch.dtype) -> str:
    type_ = TensorType(dtype, graph.type_of(op.name).shape)
    name = graph.fresh_name(f"{op.name}.{'wide' if dtype is _FROM else 'narrow'}")
    return graph.insert_after(op.name, Op(name, _CAST, (Ref(op.name), dtype), type=type_)).name
