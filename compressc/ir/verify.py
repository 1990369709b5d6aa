"""Is this graph well formed, and are its types true?

Types are re-derived by running each op on fake tensors with symbolic sizes: no data is touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import networkx as nx
import sympy
import torch
from torch import nn
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv
from torch.utils._sympy.numbers import int_oo

from compressc.errors import CompresscError
from compressc.ir.graph import Graph, dimension_symbols
from compressc.ir.ops import (
    LAYERS,
    Arg,
    Op,
    Ref,
    build_layer,
    layer_attributes,
    layer_tensors,
    map_arg,
    overload,
    squeeze,
)
from compressc.ir.printer import limit_text, op_text
from compressc.ir.types import (
    Size,
    TensorType,
    TupleType,
    ValueType,
    evaluate,
    simplify_size,
    symbol,
)


def verify(graph: Graph, *, like: Graph | None = None) -> None:
    """Check everything that must hold for a graph.

    Args:
        graph: the graph to check.
        like: where given, inputs and outputs must have this graph's types.

    Raises:
        CompresscError: CC400 (structure), CC401 (types), CC205 (weights that are not finite), each
            with the line of graph text at fault.
    """
    check_structure(graph)
    for op in graph:
        if op.layer is not None:
            _check_layer(graph, op)
    for name, derived in derive_types(graph).items():
        recorded = graph[name].type
        if recorded != derived:
            raise _at(
                graph, graph[name], "CC401", f"the type of '%{name}' is {derived}", str(recorded)
            )
    if like is not None:
        _check_interface(graph, like)


def check_structure(graph: Graph) -> None:
    """Order, acyclicity, edges that equal the operands, outputs that exist.

    Raises:
        CompresscError: CC400.
    """
    seen: set[str] = set()
    returned = set(graph.output_names)
    for op in graph:
        for position, source in enumerate(op.inputs):
            if source not in seen:
                raise _at(
                    graph, op, "CC400", f"'%{op.name}' reads '%{source}' before it is computed"
                )
            if not graph.dag.has_edge(source, op.name, key=position):
                raise _at(graph, op, "CC400", f"operand {position} of '%{op.name}' has no edge")
        if graph.dag.in_degree(op.name) != len(op.inputs):
            raise _at(graph, op, "CC400", f"'%{op.name}' has edges that are no operands")
        dangling = not graph.dag.out_degree(op.name) and op.name not in returned
        if op.kind in ("parameter", "constant") and dangling:
            raise _at(graph, op, "CC400", f"nothing reads '%{op.name}'")
        if (op.kind in LAYERS) != (op.layer is not None):
            raise _at(
                graph, op, "CC400", f"'%{op.name}' must hold a layer exactly if its kind does"
            )
        seen.add(op.name)
    if len(seen) != len(graph.dag) or not nx.is_directed_acyclic_graph(graph.dag):
        raise CompresscError("CC400", "the graph has a cycle or an op outside the order")
    for name in graph.output_names:
        if name not in seen:
            raise CompresscError("CC400", f"the output '%{name}' is not computed")
    if not graph.output_names:
        raise CompresscError("CC400", "the graph returns nothing")
    _check_limits(graph)


def _check_limits(graph: Graph) -> None:
    """Limits are of open dimensions, and leave some size."""
    for name, (least, most) in graph.limits.items():
        if name not in dimension_symbols(graph):
            raise CompresscError("CC400", f"the limit of '{name}' is of no open dimension")
        if most is not None and most < least:
            raise CompresscError(
                "CC400", f"dimension '{name}' must have a size", got=limit_text(name, least, most)
            )


def _check_layer(graph: Graph, op: Op) -> None:
    """The tensors of a layer have the shapes its attributes imply, and hold finite numbers."""
    assert op.layer is not None
    if op.kind not in ("parameter", "constant"):
        model = build_layer(op.kind, layer_attributes(op))
        implied, settings = _settings(model), _settings(op.layer)
        if differing := {key for key in implied if settings.get(key) != implied[key]}:
            key = min(differing)
            text = f"'{key}' of '%{op.name}' is {implied[key]} by its attributes"
            raise _at(graph, op, "CC400", text, str(settings.get(key)))
        wanted = {name: tuple(tensor.shape) for name, tensor in layer_tensors(model)}
        got = {name: tuple(tensor.shape) for name, tensor in layer_tensors(op.layer)}
        if wanted != got:
            raise _at(
                graph, op, "CC400", f"'%{op.name}' holds {wanted} by its attributes", str(got)
            )


def _settings(layer: nn.Module) -> dict[str, Any]:
    """What a module computes beside its tensors; the text form has to say all of it."""
    public = {key: squeeze(value) for key, value in vars(layer).items() if key[0] != "_"}
    simple = (int, float, str, bool, tuple, type(None))
    return {k: v for k, v in public.items() if isinstance(v, simple) and k != "training"}


def check_finite(graph: Graph) -> None:
    """No weight is NaN or infinite.

    Raises:
        CompresscError: CC205 naming the tensor and how many of its numbers are at fault.
    """
    for name, tensor in graph.tensors().items():
        if tensor.is_floating_point() and not tensor.is_meta:
            bad = int((~torch.isfinite(tensor)).sum())
            if bad and not _may_be_infinite(graph, name):
                raise CompresscError(
                    "CC205",
                    "every weight must be a finite number",
                    got=f"{bad} of {tensor.numel()} are NaN or infinite",
                    where=f"@{name}",
                    hint="train again or load another checkpoint",
                )


def _may_be_infinite(graph: Graph, tensor_name: str) -> bool:
    """Constants may be: masks are written with -inf."""
    return graph[tensor_name.rpartition(".")[0]].kind == "constant"


def _check_interface(graph: Graph, like: Graph) -> None:
    def signature(g: Graph) -> tuple[str, str]:
        def leaf(arg: Arg) -> Arg:
            return str(g[arg.name].type) if isinstance(arg, Ref) else arg

        return ", ".join(str(op.type) for op in g.inputs), str(map_arg(g.outputs, leaf))

    for what, got, want in zip(
        ("inputs", "outputs"), signature(graph), signature(like), strict=True
    ):
        if got != want:
            raise CompresscError("CC401", f"the {what} must stay {want}", got=got)


def derive_types(graph: Graph) -> dict[str, ValueType]:
    """The type of every value, derived from the inputs' types and the layers alone.

    Raises:
        CompresscError: CC401 where an op cannot be applied to its operands.
    """
    shapes = ShapeEnv()
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=shapes)
    sizes = _OpenSizes(graph, shapes)
    values: dict[str, Any] = {}
    types: dict[str, ValueType] = {}
    known: dict[Any, Any] = {}  # repeated blocks are derived once
    # the Python dispatcher: some C++ shape functions would turn a symbolic size into a number
    with mode, enable_python_dispatcher(), torch.no_grad():
        for op in graph:
            try:
                values[op.name] = (
                    _fake_input(op, sizes)
                    if op.kind == "input"
                    else _fake_call(op, values, sizes.env, known)
                )
                types[op.name] = _type_of(values[op.name], sizes.names)
            except CompresscError:
                raise
            except (
                RuntimeError,
                TypeError,
                ValueError,
                IndexError,
                KeyError,
                AssertionError,
            ) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise _at(graph, op, "CC401", f"'%{op.name}' cannot be computed", reason) from error
    return types


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
    if op.kind in ("parameter", "constant"):
        return op.layer() if op.layer is not None else None
    key = (op.kind, _layer_key(op.layer), _key(args), _key(kwargs))
    if key not in known:
        function = op.layer if op.layer is not None else overload(op.kind)
        known[key] = function(*args, **kwargs)
    return known[key]


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


def _at(graph: Graph, op: Op, code: str, wanted: str, got: str = "") -> CompresscError:
    try:
        line = op_text(op, graph.tensor_names())
    except (CompresscError, KeyError, AttributeError):
        line = f"%{op.name}"
    return CompresscError(code, wanted, got=got, where=line)
