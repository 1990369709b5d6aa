"""The type of every value, derived from the inputs' types and the layers alone.

Each op is run on fake tensors with symbolic sizes: no data is touched. `verify` needs this only to
say what a wrong type should be; passes that change widths call `retype`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import sympy
import torch
from torch import nn
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv
from torch.utils._sympy.numbers import int_oo

from compressc.errors import CompresscError, first_line
from compressc.ir.graph import Graph
from compressc.ir.layer_building import layer_tensors
from compressc.ir.ops import Arg, Op, Ref, map_arg, overload
from compressc.ir.printer import error_at
from compressc.ir.recurrent import CALLS, results_like, whole_sequences
from compressc.ir.types import (
    Size,
    TensorType,
    TupleType,
    ValueType,
    evaluate,
    simplify_size,
    symbol,
)

#: What applying an op to operands it does not take may raise.
NOT_APPLICABLE = (
    RuntimeError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    CompresscError,
)


def derive_types(graph: Graph) -> dict[str, ValueType]:
    """The type of every value, derived from the inputs' types and the layers alone.

    Raises:
        CompresscError: CC401 where an op cannot be applied to its operands.
    """
    return {op.name: type_ for op, type_ in derived_types(graph)}


def derived_types(graph: Graph) -> Iterator[tuple[Op, ValueType]]:
    """Each op with its derived type, one after the other; raises as `derive_types` does."""
    shapes = ShapeEnv()
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=shapes)
    sizes = _OpenSizes(graph, shapes)
    values: dict[str, Any] = {}
    known: dict[Any, Any] = {}  # repeated blocks are derived once
    for op in graph:
        try:
            # the Python dispatcher: some C++ shape functions would turn a symbolic size into a
            # number. All three are left between ops, which belong to whoever asked
            with mode, enable_python_dispatcher(), whole_sequences(), torch.no_grad():
                values[op.name] = (
                    _fake_input(op, sizes)
                    if op.kind == "input"
                    else _fake_call(op, values, sizes.env, known)
                )
                type_ = _type_of(values[op.name], sizes.names)
        except NOT_APPLICABLE as error:
            raise cannot_compute(graph, op, error) from error
        yield op, type_


def cannot_compute(graph: Graph, op: Op, error: Exception) -> CompresscError:
    """CC401 for an op that does not take its operands."""
    reason = first_line(error)
    return error_at(graph, op, "CC401", f"'%{op.name}' cannot be computed", reason)


def _fake_input(op: Op, sizes: _OpenSizes) -> Any:
    """A fake tensor; each open dimension is one symbol of the shape environment, whoever has it."""
    assert isinstance(op.type, TensorType)
    for size in op.type.shape:
        for name in () if isinstance(size, int) else sorted(map(str, size.free_symbols)):
            sizes.open(name)
    return torch.empty([evaluate(size, sizes.env) for size in op.type.shape], dtype=op.type.dtype)


class _OpenSizes:
    """The open dimensions of a graph as symbolic integers.

    Attributes:
        env: dimension or width -> its symbolic or plain integer.
        names: symbol of the shape environment -> symbol of the IR.
    """

    def __init__(self, graph: Graph, shapes: ShapeEnv) -> None:
        self.limits, self.shapes = graph.limits, shapes
        self.env: dict[str, Any] = dict(graph.widths)
        self.names: dict[Any, Size] = {}
        self._hints: set[int] = set()

    def open(self, name: str) -> None:
        """Make a symbol within the limits, if there is none yet."""
        if name in self.env:
            return
        least, most = self.limits.get(name, (1, None))
        hint = self._hint(name, least, most)
        fresh = self.shapes.create_symbol(
            hint, ConstantSource(name), dynamic_dim=DimDynamic.DYNAMIC
        )
        if name in self.limits:
            upper = int_oo if most is None else most
            self.shapes.constrain_symbol_range(
                fresh, compiler_min=max(2, least), compiler_max=upper
            )
        self.env[name] = self.shapes.create_symintnode(fresh, hint=hint)
        self.names[fresh] = symbol(name)

    def _hint(self, name: str, least: int, most: int | None) -> int:
        """A size to test with: large, prime, and another one for each dimension."""
        hint = int(sympy.prime(500 + sum(map(ord, name)) % 500))
        if hint < least:
            hint = int(sympy.nextprime(least))
        while hint in self._hints:
            hint = int(sympy.nextprime(hint))
        if most is not None and hint > most:
            free = (n for n in range(most, least - 1, -1) if n not in self._hints)
            hint = next(free, most)
        self._hints.add(hint)
        return hint


def _fake_call(
    op: Op, values: Mapping[str, Any], env: Mapping[str, Any], known: dict[Any, Any]
) -> Any:
    def leaf(arg: Arg) -> Any:
        if isinstance(arg, Ref):
            return values[arg.name]
        return evaluate(arg, env) if isinstance(arg, sympy.Expr) else arg

    args, kwargs = map_arg(op.args, leaf), map_arg(op.kwargs, leaf)
    if op.role == "tensor":
        return op.layer() if op.layer is not None else None
    key = (op.kind, _layer_key(op.layer), _key(args), _key(kwargs))
    if key not in known:
        function = op.layer if op.layer is not None else overload(op.kind)
        known[key] = apply(op.kind, function, args, kwargs)
    return known[key]


#: Writes into a part of a value -> the view of that part. Their shape functions are careless.
_SCATTERS: dict[str, Any] = {
    "aten.slice_scatter": torch.ops.aten.slice.Tensor,
    "aten.select_scatter": torch.ops.aten.select.int,
    "aten.diagonal_scatter": torch.ops.aten.diagonal.default,
}


def apply(kind: str, function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Call an op on tensors without data, as strictly as its kernel would.

    Raises:
        ValueError: where the kernel would reject operands that the shape function takes.
    """
    if kind in _SCATTERS:
        whole, part, *where = args
        wanted = _SCATTERS[kind](whole, *where, **kwargs).shape
        if part.shape != wanted:
            raise ValueError(f"a part of shape {tuple(wanted)} is written, not {tuple(part.shape)}")
    if kind in CALLS:
        return results_like(*args, **kwargs)
    return function(*args, **kwargs)


def _layer_key(layer: nn.Module | None) -> Any:
    """Equal for layers that give equal types: class, settings, and types of the tensors."""
    if layer is None:
        return None
    settings = {key: value for key, value in vars(layer).items() if key[0] != "_"}
    return type(layer), repr(settings), _key([tensor for _, tensor in layer_tensors(layer)])


def _key(value: Any) -> Any:
    """Equal for values that no operator's shape function can tell apart."""
    if isinstance(value, torch.Tensor):
        sizes = (*value.shape, *value.stride())
        return value.dtype, *(s.node.expr if isinstance(s, torch.SymInt) else s for s in sizes)
    if isinstance(value, tuple | list):
        return tuple(map(_key, value))
    if isinstance(value, dict):
        return tuple((name, _key(item)) for name, item in value.items())
    return repr(value)


def _type_of(value: Any, names: Mapping[Any, Size]) -> ValueType:
    if isinstance(value, tuple | list):
        items = [_type_of(item, names) for item in value]
        return TupleType(tuple(item for item in items if isinstance(item, TensorType)))
    shape = tuple(
        simplify_size(size.node.expr.xreplace(names)) if isinstance(size, torch.SymInt) else size
        for size in value.shape
    )
    return TensorType(value.dtype, shape)


def retype(graph: Graph) -> None:
    """Record the derived type of every value; a pass calls this after changing widths.

    Raises:
        CompresscError: CC401 where an op cannot be applied to its operands.
    """
    for name, type_ in derive_types(graph).items():
        graph.set_type(name, type_)
