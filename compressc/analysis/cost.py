"""What each op costs: parameters, bytes and multiply-accumulates, at a given batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

from compressc.ir import Graph, Op, TensorType, TupleType, layer_tensors

#: Tensors that a layer keeps for bookkeeping: they are no parameters.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked", "scale", "zero_point")
#: The size that open dimensions take where the caller names none.
DEFAULT_DIMENSION = 1


@dataclass(frozen=True)
class Cost:
    """Cost of one op or of a whole graph.

    Attributes:
        parameters: elements of its weights (statistics and quantization scales not counted).
        bytes: bytes of all its tensors, those included.
        macs: multiply-accumulates of one run; 0 for what only moves or maps elements.
        activation_bytes: bytes of its result.
    """

    parameters: int = 0
    bytes: int = 0
    macs: int = 0
    activation_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.parameters + other.parameters,
            self.bytes + other.bytes,
            self.macs + other.macs,
            self.activation_bytes + other.activation_bytes,
        )


def op_costs(graph: Graph, **dimensions: int) -> dict[str, Cost]:
    """Cost of every op, in order; a tied tensor counts where it is first held.

    Args:
        graph: a typed graph.
        dimensions: values for open dimensions (`b=64`); those not given count as 1.
    """
    env = _Sizes(graph.size_env(**dimensions))
    seen: set[int] = set()
    return {op.name: _cost(graph, op, env, seen) for op in graph}


def total_cost(graph: Graph, **dimensions: int) -> Cost:
    """Cost of the whole graph; activation bytes are summed, not peak."""
    return sum(op_costs(graph, **dimensions).values(), Cost())


class _Sizes(dict[str, int]):
    """Symbol values; an open dimension nobody gave is 1."""

    def __missing__(self, key: str) -> int:
        return DEFAULT_DIMENSION

    def __contains__(self, key: object) -> bool:
        return True


def _cost(graph: Graph, op: Op, env: _Sizes, seen: set[int]) -> Cost:
    parameters = size = 0
    for name, tensor in layer_tensors(op.layer) if op.layer is not None else ():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            size += tensor.numel() * tensor.element_size()
            if name.rpartition(".")[2] not in _STATISTICS:
                parameters += tensor.numel()
    types = op.type.items if isinstance(op.type, TupleType) else (op.type,)
    activations = sum(t.numel(env) * t.dtype.itemsize for t in types if isinstance(t, TensorType))
    return Cost(parameters, size, _macs(graph, op, env), activations)


def _macs(graph: Graph, op: Op, env: _Sizes) -> int:
    """Output elements times the length of the sum behind each."""
    if not isinstance(op.type, TensorType):
        return 0
    layer: Any = op.layer
    out = op.type.numel(env)
    if op.kind.removeprefix("quantized_") == "linear":
        return out * int(layer.in_features)
    if "conv_transpose" in op.kind:
        fan = int(layer.out_channels // layer.groups * prod(layer.kernel_size))
        return _operand(graph, op, 0).numel(env) * fan
    if "conv" in op.kind and layer is not None:
        return out * int(layer.in_channels // layer.groups * prod(layer.kernel_size))
    if op.kind in ("aten.matmul", "aten.bmm", "aten.mm"):
        return out * int(_sizes(_operand(graph, op, 0), env)[-1])
    if op.kind == "aten.scaled_dot_product_attention":
        scores = (
            prod(_sizes(_operand(graph, op, 0), env)[:-1]) * _sizes(_operand(graph, op, 1), env)[-2]
        )
        widths = (_sizes(_operand(graph, op, i), env)[-1] for i in (0, 2))
        return scores * sum(widths)
    return 0


def _operand(graph: Graph, op: Op, index: int) -> TensorType:
    return graph.type_of(op.args[index].name)


def _sizes(type_: TensorType, env: _Sizes) -> list[int]:
    return [TensorType(type_.dtype, (size,)).numel(env) for size in type_.shape]


def cost_rows(graph: Graph, **dimensions: int) -> Iterable[tuple[Op, Cost]]:
    """(op, cost) of the ops that hold weights or multiply, in order."""
    for name, cost in op_costs(graph, **dimensions).items():
        if cost.parameters or cost.macs:
            yield graph[name], cost
