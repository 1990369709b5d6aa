"""Ops that move, split or join dimensions."""

from __future__ import annotations

from compressc.analysis.axes import (
    Axis,
    concat_axes,
    freeze,
    reshape_axes,
    split_axis,
    unify,
)
from compressc.analysis.coupling_rules.rule import Analysis, Rule, Values
from compressc.ir import Op, TupleType


def _reshape(c: Analysis, op: Op) -> Values:
    return reshape_axes(c.axes(op.args[0]), c.sizes(op))


def _permute(c: Analysis, op: Op) -> Values:
    x = c.axes(op.args[0])
    return tuple(x[dim] for dim in op.args[1])


def _transpose(c: Analysis, op: Op) -> Values:
    x = list(c.axes(op.args[0]))
    a, b = op.args[1:3] if op.kind == "aten.transpose.int" else (0, len(x) - 1)
    x[a], x[b] = x[b], x[a]
    return tuple(x)


def _unsqueeze(c: Analysis, op: Op) -> Values:
    x = list(c.axes(op.args[0]))
    x.insert(op.args[1] % (len(x) + 1), Axis(1))
    return tuple(x)


def _squeeze(c: Analysis, op: Op) -> Values | None:
    x = c.axes(op.args[0])
    dims = op.args[1] if len(op.args) > 1 else range(len(x))
    gone = {dim % len(x) for dim in (dims if isinstance(dims, tuple | range) else (dims,))}
    return tuple(axis for dim, axis in enumerate(x) if dim not in gone or axis.size != 1)


def _expand(c: Analysis, op: Op) -> Values:
    x, sizes = c.axes(op.args[0]), c.sizes(op)
    padded = (*(Axis(1) for _ in range(len(sizes) - len(x))), *x)
    return tuple(a if a.size == n else Axis(n) for a, n in zip(padded, sizes, strict=True))


def _select(c: Analysis, op: Op) -> Values:
    x = list(c.axes(op.args[0]))
    freeze(x.pop(op.args[1]), "single indices are read from it", op.name)
    return tuple(x)


def _slice(c: Analysis, op: Op) -> Values:
    x = list(c.axes(op.args[0]))
    dim = (op.args[1] if len(op.args) > 1 else 0) % len(x)
    size = c.sizes(op)[dim]
    if size != x[dim].size:
        freeze(x[dim], "a slice is read from it", op.name)
        x[dim] = Axis(size, frozen="a slice")
    return tuple(x)


def _unbind(c: Analysis, op: Op) -> Values:
    x = list(c.axes(op.args[0]))
    gone = x.pop(op.args[1] if len(op.args) > 1 else 0)
    freeze(gone, "its indices are told apart", op.name)
    return tuple(tuple(x) for _ in range(gone.size))


def _cat(c: Analysis, op: Op) -> Values:
    operands = [c.axes(ref) for ref in op.args[0]]
    dim = (op.args[1] if len(op.args) > 1 else op.kwargs.get("dim", 0)) % len(operands[0])
    out = list(operands[0])
    for other in operands[1:]:
        for i, axis in enumerate(other):
            if i != dim:
                unify(out[i], axis)
    out[dim] = concat_axes([axes[dim] for axes in operands])
    return tuple(out)


def _split(c: Analysis, op: Op) -> Values:
    x = c.axes(op.args[0])
    assert isinstance(op.type, TupleType)
    dim = (op.args[2] if len(op.args) > 2 else op.kwargs.get("dim", 0)) % len(x)
    pieces = split_axis(x[dim], [c.size(item.shape[dim]) for item in op.type.items])
    return tuple((*x[:dim], piece, *x[dim + 1 :]) for piece in pieces)


def _pad(c: Analysis, op: Op) -> Values:
    x, sizes = c.axes(op.args[0]), c.sizes(op)
    out = []
    for axis, size in zip(x, sizes, strict=True):
        if axis.size != size:
            freeze(axis, "padded", op.name)
        out.append(axis if axis.size == size else Axis(size, frozen="padded"))
    return tuple(out)


RULES: dict[str, Rule] = {
    **{f"aten.{kind}": _reshape for kind in ("reshape", "view", "_unsafe_view")},
    **{f"aten.{kind}": _reshape for kind in ("flatten.using_ints", "unflatten.int")},
    "aten.permute": _permute,
    "aten.transpose.int": _transpose,
    "aten.t": _transpose,
    "aten.unsqueeze": _unsqueeze,
    **{f"aten.{kind}": _squeeze for kind in ("squeeze", "squeeze.dim", "squeeze.dims")},
    "aten.expand": _expand,
    "aten.select.int": _select,
    "aten.slice.Tensor": _slice,
    "aten.unbind.int": _unbind,
    "aten.cat": _cat,
    **{f"aten.{kind}": _split for kind in ("split_with_sizes", "split.Tensor", "chunk")},
    "aten.constant_pad_nd": _pad,
    "aten.pad": _pad,
}
