"""Are the recorded types true? Every op is run on the meta device at a few sizes.

Two sets of large primes and the smallest sizes allowed stand for the open dimensions: a recorded
type that is true at all of them is the derived one, and one that holds only for some sizes is
found out. No data is touched, and equal calls (repeated blocks) are run once, so this is far
cheaper than deriving types with symbolic sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import sympy
import torch
from torch import nn

from compressc.ir.deriving import NOT_APPLICABLE, apply
from compressc.ir.graph import Graph, open_dimensions
from compressc.ir.ops import Arg, Op, Ref, overload
from compressc.ir.types import TensorType, TupleType, ValueType, evaluate, symbol

#: Prime sizes to start from; with many open dimensions smaller ones, or numels would overflow.
_STARTS = {2: (10007, 20011), 6: (1009, 2003)}
_SMALLEST = 2  # torch.export takes no open size for less
_SMALL = 100  # a size of less may be in a shape by chance


#: Results of calls on the meta device, kept from graph to graph: a pipeline verifies after each
#: pass, and most ops stay. Dropped when there are as many as this.
_MOST_KNOWN = 50_000


class _Known:
    """What is known of the meta device.

    Attributes:
        results: call -> (the twin called, which keeps its id its own, result).
        alike: dtype, shape, strides -> the one such tensor, so that its id can stand in a key.
    """

    def __init__(self) -> None:
        self.results: dict[Any, tuple[Any, Any]] = {}
        self.alike: dict[Any, torch.Tensor] = {}

    def one(self, value: Any) -> Any:
        """One tensor for all that look the same."""
        if isinstance(value, tuple | list):
            return tuple(map(self.one, value))
        if not isinstance(value, torch.Tensor):
            return value
        return self.alike.setdefault((value.dtype, value.shape, value.stride()), value)


_known = _Known()


def doubtful_op(graph: Graph, twins: Mapping[str, nn.Module]) -> tuple[Op, str] | None:
    """The first op whose recorded type is not that of its result.

    Args:
        graph: a graph of sound structure.
        twins: for each layer op, an equal module on the meta device.

    Returns:
        The op, and its true type. The text is empty where the op cannot be run on the meta device
        at these sizes. None where all types are true.
    """
    global _known  # noqa: PLW0603  (a run that goes on keeps the old one)
    if len(_known.results) > _MOST_KNOWN:
        _known = _Known()
    for sizes in sample_sizes(graph):
        found = _Run(graph, twins, sizes, _known).first_doubt()
        if found is not None:
            return found
    return None


def sample_sizes(graph: Graph) -> list[dict[str, int]]:
    """Sizes for the open dimensions: two sets of primes, and the smallest."""
    names = open_dimensions(graph)
    starts = next((s for most, s in _STARTS.items() if len(names) <= most), (101, 211))
    samples = [_primes(graph, names, start) for start in starts]
    samples.append({name: max(_SMALLEST, graph.limits.get(name, (1, None))[0]) for name in names})
    return [dict(pairs) for pairs in dict.fromkeys(tuple(sample.items()) for sample in samples)]


def _primes(graph: Graph, names: Sequence[str], start: int) -> dict[str, int]:
    """Another prime for each dimension; below a limit, sizes as different as it allows."""
    found: dict[str, int] = {}
    for name in names:
        least, most = graph.limits.get(name, (1, None))
        size = start = int(sympy.nextprime(max(start, least)))
        if most is not None and size > most:
            free = (
                n for n in range(most, max(least, most - 99) - 1, -1) if n not in found.values()
            )
            size = next(free, most)
        found[name] = size
    return found


class _Run:
    """One run of a graph on the meta device."""

    def __init__(
        self,
        graph: Graph,
        twins: Mapping[str, nn.Module],
        sizes: dict[str, int],
        known: _Known,
    ) -> None:
        self.graph, self.twins, self.sizes, self.known = graph, twins, sizes, known
        self.env = graph.size_env(**sizes)
        self.values: dict[str, Any] = {}
        self.agreed: set[tuple[Any, ValueType]] = set()
        self.numbers: dict[Any, int] = {}

    def first_doubt(self) -> tuple[Op, str] | None:
        """See `doubtful_op`."""
        with torch.no_grad():
            for op in self.graph:
                try:
                    value = self._input(op) if op.kind == "input" else self._call(op)
                except NOT_APPLICABLE:
                    return op, ""
                self.values[op.name] = value
                if not self._agrees(value, op.type):
                    return op, self._text(value)
        return None

    def _size(self, size: Any) -> int:
        if isinstance(size, int):
            return size
        if size not in self.numbers:
            self.numbers[size] = int(evaluate(size, self.env))
        return self.numbers[size]

    def _input(self, op: Op) -> Any:
        assert isinstance(op.type, TensorType)
        shape = [self._size(size) for size in op.type.shape]
        return self.known.one(torch.empty(shape, dtype=op.type.dtype, device="meta"))

    def _call(self, op: Op) -> Any:
        twin = self.twins.get(op.name)
        key = (op.kind, id(twin), self._key(op.args), self._key(op.kwargs) if op.kwargs else ())
        if key not in self.known.results:
            self.known.results[key] = twin, self._run(op, twin)
        return self.known.results[key][1]

    def _run(self, op: Op, twin: nn.Module | None) -> Any:
        args, kwargs = self._filled(op.args), self._filled(op.kwargs)
        if twin is None and not op.inputs and _takes_device(op.kind):
            kwargs.setdefault("device", torch.device("meta"))
        function = overload(op.kind) if twin is None else twin
        return self.known.one(apply(op.kind, function, args, kwargs))

    def _filled(self, arg: Arg) -> Any:
        """An argument with values for references, numbers for sizes, and the meta device."""
        if isinstance(arg, Ref):
            return self.values[arg.name]
        if isinstance(arg, tuple | list):
            return type(arg)(map(self._filled, arg))
        if isinstance(arg, dict):
            return {key: self._filled(item) for key, item in arg.items()}
        if isinstance(arg, sympy.Expr):
            return self._size(arg)
        return torch.device("meta") if isinstance(arg, torch.device) else arg

    def _key(self, arg: Arg) -> Any:
        """Equal for arguments that are filled alike; `1`, `1.0` and `True` are told apart."""
        if isinstance(arg, Ref):
            value = self.values[arg.name]
            return tuple(map(id, value)) if isinstance(value, tuple) else id(value)
        if isinstance(arg, tuple | list):
            return tuple(map(self._key, arg))
        if isinstance(arg, dict):
            return tuple((key, self._key(item)) for key, item in arg.items())
        return type(arg), self._size(arg) if isinstance(arg, sympy.Expr) else arg

    def _agrees(self, value: Any, type_: ValueType | None) -> bool:
        if type_ is None:
            return False
        known = tuple(map(id, value)) if isinstance(value, tuple) else id(value)
        if (known, type_) in self.agreed:
            return True
        if not self._has_type(value, type_):
            return False
        self.agreed.add((known, type_))
        return True

    def _has_type(self, value: Any, type_: ValueType) -> bool:
        if isinstance(type_, TupleType):
            if not isinstance(value, tuple):
                return False
            tensors = [item for item in value if isinstance(item, torch.Tensor)]
            return len(tensors) == len(type_.items) and all(
                map(self._has_type, tensors, type_.items)
            )
        if not isinstance(value, torch.Tensor) or value.dtype != type_.dtype:
            return False
        return tuple(value.shape) == tuple(map(self._size, type_.shape))

    def _text(self, value: Any) -> str:
        """A type as it should be recorded: a multiple of an open dimension's size as such."""
        if isinstance(value, tuple):
            return f"({', '.join(map(self._text, value))})"
        if not isinstance(value, torch.Tensor):
            return type(value).__name__
        return str(TensorType(value.dtype, tuple(map(self._symbolic, value.shape))))

    def _symbolic(self, size: int) -> Any:
        for name, prime in self.sizes.items():
            if prime > _SMALL and size and size % prime == 0:
                return symbol(name) * self._symbolic(size // prime)
        return size


@cache
def _takes_device(kind: str) -> bool:
    schema = getattr(overload(kind), "_schema", None)
    return schema is not None and any(argument.name == "device" for argument in schema.arguments)
