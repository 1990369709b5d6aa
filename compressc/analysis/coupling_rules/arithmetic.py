"""Element-wise ops, and statistics over dimensions."""

from __future__ import annotations

from collections.abc import Sequence

from compressc.analysis.axes import Axis, freeze, mark_normalized, unify
from compressc.analysis.coupling_rules.rule import Analysis, Axes, Rule, Values
from compressc.ir import Op
from compressc.ir.ops import refs_of


def pointwise(c: Analysis, op: Op) -> Values:
    """Element by element: operands are broadcast to one shape."""
    operands = [c.axes(ref) for ref in refs_of((op.args, op.kwargs))]
    return broadcast(operands, c.sizes(op))


def broadcast(operands: Sequence[Axes], sizes: Sequence[int]) -> Axes:
    """The axes of a shape that operands are broadcast to; those of full size are the same."""
    out: list[Axis] = []
    for back in range(1, len(sizes) + 1):
        here = [axes[-back] for axes in operands if len(axes) >= back]
        wide = [axis for axis in here if axis.size == sizes[-back]]
        for axis in wide[1:]:
            unify(wide[0], axis)
        out.append(wide[0])
    return tuple(reversed(out))


def _softmax(c: Analysis, op: Op) -> Values:
    x = c.axes(op.args[0])
    freeze(x[op.args[1]], "a softmax runs over it", op.name)
    return x


def _cumulative(c: Analysis, op: Op) -> Values:
    x = c.axes(op.args[0])
    freeze(x[op.args[1]], "a running sum goes along it", op.name)
    return x


def _reduce(c: Analysis, op: Op) -> Values | None:
    x = list(c.axes(op.args[0]))
    dims = op.args[1] if len(op.args) > 1 else None
    if dims is None or dims == ():  # over everything
        return None
    gone = {dim % len(x) for dim in (dims if isinstance(dims, tuple) else (dims,))}
    keep = op.args[2] if len(op.args) > 2 else op.kwargs.get("keepdim", False)
    for dim in gone:
        mark_normalized(x[dim], op.name)
    kept = ((d, Axis(1) if d in gone else axis) for d, axis in enumerate(x))
    return tuple(axis for d, axis in kept if keep or d not in gone)


RULES: dict[str, Rule] = {
    **{f"aten.{kind}": _softmax for kind in ("softmax.int", "_softmax", "log_softmax.int")},
    "aten.cumsum": _cumulative,
    **{f"aten.{kind}": _reduce for kind in ("mean.dim", "sum.dim_IntList", "amax", "amin")},
}
