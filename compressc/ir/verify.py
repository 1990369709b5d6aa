"""Is this graph well formed, are its types true, and does its text say all of it?"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from compressc.collecting import collector_paused
from compressc.errors import CompresscError
from compressc.ir.deriving import derived_types
from compressc.ir.graph import Graph
from compressc.ir.layer_forms import LayerForms
from compressc.ir.layers import LAYERS, NORMS
from compressc.ir.ops import Arg, Op, Ref, map_arg, overload
from compressc.ir.printer import error_at, limit_text
from compressc.ir.readable import check_readable
from compressc.ir.sampled_types import doubtful_op
from compressc.ir.types import TensorType
from compressc.quiet import quiet


@collector_paused()
def verify(graph: Graph, *, like: Graph | None = None) -> None:
    """Check everything that must hold for a graph.

    Args:
        graph: the graph to check.
        like: where given, inputs, outputs and limits must be this graph's, and lineage must name
            ops of this graph or of its lineage.

    Raises:
        CompresscError: CC400 (structure, text form, layers), CC401 (types), each with the line of
            graph text at fault.
    """
    check_structure(graph)
    check_readable(graph)
    forms = LayerForms(graph)
    twins = {op.name: forms.check(op) for op in graph if op.layer is not None}
    for op in graph:
        _check_call(graph, op, twins.get(op.name))
    _check_types(graph, twins)
    if like is not None:
        _check_interface(graph, like)
        _check_lineage(graph, like)


def check_structure(graph: Graph) -> None:
    """Order, acyclicity, edges that equal the operands, outputs that exist.

    Raises:
        CompresscError: CC400.
    """
    _check_order(graph)
    seen: set[str] = set()
    returned = set(graph.output_names)
    edges = 0
    for op in graph:
        for position, source in enumerate(op.inputs):
            if source not in seen:
                raise error_at(
                    graph, op, "CC400", f"'%{op.name}' reads '%{source}' before it is computed"
                )
            if not graph.dag.has_edge(source, op.name, key=position):
                raise error_at(
                    graph, op, "CC400", f"operand {position} of '%{op.name}' has no edge"
                )
            edges += 1
        if len(graph.dag.pred[op.name]) != len(set(op.inputs)):
            raise error_at(graph, op, "CC400", f"'%{op.name}' has edges that are no operands")
        dangling = not graph.dag.succ[op.name] and op.name not in returned
        if op.role == "tensor" and dangling:
            raise error_at(graph, op, "CC400", f"nothing reads '%{op.name}'")
        if (op.kind in LAYERS) != (op.layer is not None):
            raise error_at(
                graph, op, "CC400", f"'%{op.name}' must hold a layer exactly if its kind does"
            )
        seen.add(op.name)
    # operands come from earlier ops alone: with no other edge there is no cycle
    if edges != graph.dag.number_of_edges():
        raise CompresscError("CC400", "the graph has edges that are no operands")
    for name in graph.output_names:
        if name not in seen:
            raise CompresscError("CC400", f"the output '%{name}' is not computed")
    if not graph.output_names:
        raise CompresscError("CC400", "the graph returns nothing")


def _check_order(graph: Graph) -> None:
    """The linked order has every op once, under its own name, and leads back as it leads on."""
    nodes, previous = graph.dag.nodes, ""
    for _ in range(len(nodes) + 1):
        name = graph._next.get(previous)
        if name is None or graph._previous.get(name) != previous:
            raise CompresscError("CC400", f"the order of ops breaks off behind '%{previous}'")
        if not name:
            break
        op = nodes[name].get("op") if name in nodes else None
        if not isinstance(op, Op) or op.name != name:
            raise CompresscError("CC400", f"'%{name}' is an op of that name", got=str(op))
        previous = name
    length = len(graph._next) - 1
    if name or length != len(nodes) or len(graph._previous) != len(graph._next):
        raise CompresscError("CC400", "the graph has a cycle or an op outside the order")


def _check_call(graph: Graph, op: Op, twin: nn.Module | None) -> None:
    """An operation that exists and writes into nothing; operands of a layer in its dtype."""
    if op.kind == "input":
        return
    if twin is not None:
        _check_operand_dtypes(graph, op, twin)
        return
    try:
        schema = getattr(overload(op.kind), "_schema", None)
    except CompresscError as error:
        raise error_at(graph, op, "CC400", error.wanted, op.kind) from error
    if schema is not None and schema.is_mutable:
        wanted = f"'%{op.name}' must not write into its operands"
        raise error_at(graph, op, "CC400", wanted, op.kind)


def _check_operand_dtypes(graph: Graph, op: Op, twin: nn.Module) -> None:
    """Kernels are stricter than shape functions: floats of the weights' dtype, as a rule."""
    held = {t.dtype for t in twin.state_dict().values() if t.dtype.is_floating_point}
    for name in op.inputs:
        type_ = graph[name].type
        if isinstance(type_, TensorType) and not _takes(op, held, type_.dtype):
            wanted = f"'%{op.name}' takes {_wanted(op, held)}"
            raise error_at(graph, op, "CC401", wanted, str(type_))


def _takes(op: Op, held: set[torch.dtype], dtype: torch.dtype) -> bool:
    if op.role == "embedding":
        return dtype in (torch.int64, torch.int32)
    if not dtype.is_floating_point:
        return op.role is None or LAYERS[op.kind].integers
    halves = (torch.float16, torch.bfloat16)
    mixed = op.role in NORMS and held == {torch.float32} and dtype in halves
    return not held or dtype in held or mixed


def _wanted(op: Op, held: set[torch.dtype]) -> str:
    if op.role == "embedding":
        return "indices"
    return ", ".join(sorted(map(str, held))) or "floats"


def _check_types(graph: Graph, twins: dict[str, nn.Module]) -> None:
    doubt = doubtful_op(graph, twins)
    if doubt is None:
        return
    op, found = doubt
    if found:
        raise error_at(graph, op, "CC401", f"the type of '%{op.name}' is {found}", str(op.type))
    with quiet():  # torch logs what it then raises
        for op, derived in derived_types(graph):  # not all ops run on the meta device
            if op.type != derived:
                wanted = f"the type of '%{op.name}' is {derived}"
                raise error_at(graph, op, "CC401", wanted, str(op.type))


def check_finite(graph: Graph) -> None:
    """No weight is NaN or infinite.

    Raises:
        CompresscError: CC205 naming the tensor and how many of its numbers are at fault.
    """
    for name, tensor in graph.tensors().items():
        if tensor.is_floating_point() and not tensor.is_meta:
            bad = _count_not_finite(tensor.detach())
            if bad and not _may_be_infinite(graph, name):
                raise CompresscError(
                    "CC205",
                    "every weight must be a finite number",
                    got=f"{bad} of {tensor.numel()} are NaN or infinite",
                    where=f"@{name}",
                    hint="train again or load another checkpoint",
                )


_PIECE = 1 << 18


def _count_not_finite(tensor: torch.Tensor) -> int:
    """How many numbers are NaN or infinite; without a mask as large as the tensor."""
    if tensor.dtype.itemsize == 1:
        tensor = tensor.float()  # torch has no sums of 8-bit floats
    wide = torch.float32 if tensor.dtype.itemsize == 2 else None
    if torch.isfinite(tensor.sum(dtype=wide)):
        return 0  # NaN and infinity would have spread into the sum
    pieces = torch.split(tensor.reshape(-1), _PIECE)
    return sum(piece.numel() - int(torch.isfinite(piece).sum()) for piece in pieces)


def _may_be_infinite(graph: Graph, tensor_name: str) -> bool:
    """Constants may be: masks are written with -inf."""
    return graph[tensor_name.rpartition(".")[0]].kind == "constant"


def _check_interface(graph: Graph, like: Graph) -> None:
    def signature(g: Graph) -> tuple[str, str, str]:
        def leaf(arg: Arg) -> Arg:
            return str(g[arg.name].type) if isinstance(arg, Ref) else arg

        inputs = ", ".join(f"%{op.name}: {op.type}" for op in g.inputs)
        limits = ", ".join(limit_text(name, *g.limits[name]) for name in sorted(g.limits))
        return inputs, str(map_arg(g.outputs, leaf)), limits

    for what, got, want in zip(
        ("inputs", "outputs", "limits"), signature(graph), signature(like), strict=True
    ):
        if got != want:
            raise CompresscError("CC401", f"the {what} must stay {want}", got=got)


def _check_lineage(graph: Graph, like: Graph) -> None:
    """Ops descend from ops that `like` has or descends from, which are the teacher's."""
    known: set[Any] = {op.name for op in like}
    known.update(*(op.lineage for op in like))
    for op in graph:
        if strangers := set(op.lineage) - known:
            wanted = f"'%{op.name}' descends from ops of the teacher"
            raise error_at(graph, op, "CC400", wanted, ", ".join(sorted(strangers)))
