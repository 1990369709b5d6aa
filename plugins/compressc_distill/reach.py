"""Which layers training can change: those whose result the losses depend on, by floats alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from compressc.analysis.coverage import Verdict, parameters_of
from compressc.distillation import Pair
from compressc.ir import Graph, Op, TensorType, TupleType

#: Why a layer that no loss depends on is not trained.
UNREACHED = "no gradient: what is distilled does not depend on it, or not by floats alone"


def verdicts(
    graph: Graph, outputs: Iterable[str], points: Mapping[str, Pair]
) -> dict[str, Verdict]:
    """A verdict for each op.

    Args:
        graph: the student.
        outputs: the values that are distilled.
        points: feature points of the student, with the teacher's values they are held against.
    """
    reached = reached_ops(graph, [*outputs, *points])
    trained = {
        id(tensor)
        for op in graph
        if op.name in reached
        for _, tensor in parameters_of(op)
        if isinstance(tensor, nn.Parameter)
    }
    return {op.name: _verdict(op, trained, points.get(op.name)) for op in graph}


def reached_ops(graph: Graph, values: Iterable[str]) -> set[str]:
    """The ops that a gradient of the values gets to."""
    found: set[str] = set()
    stack = list(values)
    while stack:
        op = graph[stack.pop()]
        if op.name not in found and _differentiable(op):
            found.add(op.name)
            stack += op.inputs
    return found


def _differentiable(op: Op) -> bool:
    """Whether a gradient passes: integers and booleans stop it, and so does a detach."""
    types = op.type.items if isinstance(op.type, TupleType) else (op.type,)
    dtypes = [t.dtype for t in types if isinstance(t, TensorType)]
    numbers = any(dtype.is_floating_point or dtype.is_complex for dtype in dtypes)
    return numbers and op.kind not in ("aten.detach", "aten.detach.default")


def _verdict(op: Op, trained: set[int], pair: Pair | None) -> Verdict:
    held = parameters_of(op)
    names = [name for name, tensor in held if id(tensor) in trained]
    matched = f"its value is {pair}" if pair is not None else ""
    if names:
        return Verdict.does(
            "; ".join(filter(None, (f"trains {', '.join(names)}", matched))), *names
        )
    if any(isinstance(tensor, nn.Parameter) for _, tensor in held):
        return Verdict.cannot(UNREACHED)
    if held:
        return Verdict.cannot("int8 weights cannot be trained")
    return Verdict.idle(f"no weights; {matched}" if matched else "no weights")
