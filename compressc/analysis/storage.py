"""Which values share memory: every op runs once on fake tensors, and its storage is looked at.

Whether a reshape copies depends on strides, whether a convolution's result is channels-last on
the kernel: torch itself answers that. No data is touched. Ops that are alike in all that decides
are run once, so a model of fifty equal layers costs little more than one layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from compressc.analysis.signatures import Signatures
from compressc.errors import CompresscError, first_line
from compressc.ir import Graph, Op, Ref, TensorType, dimension_symbols, evaluate, layer_tensors
from compressc.ir.ops import map_arg, overload

#: Stands for the memory of weights and constants, which is no activation.
HELD = -1


@dataclass(frozen=True)
class Storage:
    """A piece of memory.

    Attributes:
        owner: the op whose result made it.
        item: which of the results, where the op has several.
        bytes: its size.
    """

    owner: str
    item: int
    bytes: int


@dataclass(frozen=True)
class Sharing:
    """The memory of every value of a graph at given sizes.

    Attributes:
        storages: by number.
        of: op name -> number of the storage of each of its results; `HELD` for weights.
    """

    storages: list[Storage]
    of: dict[str, tuple[int, ...]]


def shared_storages(graph: Graph, **dimensions: int) -> Sharing:
    """Find out which values share memory.

    Args:
        graph: a well-formed, typed graph.
        dimensions: sizes of the open dimensions; those not given take the least size allowed.

    Raises:
        CompresscError: CC204 where the model cannot be run at these sizes.
    """
    with FakeTensorMode(), torch.no_grad():
        return _Runner(graph, default_sizes(graph) | dimensions).run()


def default_sizes(graph: Graph) -> dict[str, int]:
    """The least size of every open dimension."""
    return {name: graph.limits.get(name, (1, None))[0] for name in dimension_symbols(graph)}


@dataclass(frozen=True)
class _Result:
    """What an op gave: its tensors, and for each the operand tensor whose memory it uses."""

    value: Any
    tensors: list[torch.Tensor]
    operands: list[int]


class _Runner:
    def __init__(self, graph: Graph, sizes: Mapping[str, int]) -> None:
        self.graph = graph
        self.env = graph.size_env(**sizes)
        self.signatures = Signatures(graph)
        self.values: dict[str, Any] = {}
        self.known: dict[Any, _Result] = {}
        self.storages: list[Storage] = []
        self.of: dict[str, tuple[int, ...]] = {}

    def run(self) -> Sharing:
        for op in self.graph:
            if op.role == "tensor":
                ((_, tensor),) = layer_tensors(_layer(op))
                self.values[op.name], self.of[op.name] = _blank(tensor), (HELD,)
            elif op.kind == "input":
                self._input(op)
            else:
                self._call(op)
        return Sharing(self.storages, self.of)

    def _input(self, op: Op) -> None:
        assert isinstance(op.type, TensorType)
        shape = [int(evaluate(size, self.env)) for size in op.type.shape]
        self.values[op.name] = value = torch.empty(shape, dtype=op.type.dtype)
        self.of[op.name] = (self._fresh(op, 0, value),)

    def _fresh(self, op: Op, item: int, value: torch.Tensor) -> int:
        self.storages.append(Storage(op.name, item, value.untyped_storage().nbytes()))
        return len(self.storages) - 1

    def _call(self, op: Op) -> None:
        operands, numbers = self._operands(op)
        places = [(str(t.dtype), tuple(t.shape), t.stride()) for t in operands]
        key = (self.signatures.of(op), *places)
        if key not in self.known:
            self.known[key] = self._run(op, operands)
        result = self.known[key]
        self.values[op.name] = result.value
        pairs = enumerate(zip(result.tensors, result.operands, strict=True))
        self.of[op.name] = tuple(
            numbers[operand] if operand >= 0 else self._fresh(op, item, tensor)
            for item, (tensor, operand) in pairs
        )

    def _operands(self, op: Op) -> tuple[list[torch.Tensor], list[int]]:
        """Every tensor the op reads, and the storage of each; a tuple gives all its items."""
        tensors: list[torch.Tensor] = []
        numbers: list[int] = []
        for name in op.inputs:
            tensors += _tensors(self.values[name])
            numbers += self.of[name]
        return tensors, numbers

    def _run(self, op: Op, operands: list[torch.Tensor]) -> _Result:
        args, kwargs = map_arg(op.args, self._leaf), map_arg(op.kwargs, self._leaf)
        try:
            if op.layer is None:
                value = overload(op.kind)(*args, **kwargs)
            else:
                weights = {name: _blank(tensor) for name, tensor in layer_tensors(op.layer)}
                value = functional_call(op.layer, weights, args)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            sizes = ", ".join(f"{name}={size}" for name, size in self.env.items())
            raise CompresscError(
                "CC204",
                "the model must run at these sizes",
                got=first_line(error),
                where=f"%{op.name} at {sizes}",
            ) from error
        tensors = _tensors(value)
        homes = {_address(tensor): i for i, tensor in reversed(list(enumerate(operands)))}
        return _Result(value, tensors, [homes.get(_address(tensor), -1) for tensor in tensors])

    def _leaf(self, arg: Any) -> Any:
        if isinstance(arg, Ref):
            return self.values[arg.name]
        return evaluate(arg, self.env) if isinstance(arg, sympy.Expr) else arg


def _layer(op: Op) -> torch.nn.Module:
    assert op.layer is not None
    return op.layer


def _blank(tensor: torch.Tensor) -> torch.Tensor:
    """A fake tensor with the strides of a weight, on the CPU wherever the weight is."""
    return torch.empty_strided(tuple(tensor.shape), tensor.stride(), dtype=tensor.dtype)


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [item for item in value if isinstance(item, torch.Tensor)]


def _address(tensor: torch.Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address
