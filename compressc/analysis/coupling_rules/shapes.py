"""Ops that reorder, split, join, repeat or make dimensions."""

from __future__ import annotations

from functools import cache
from typing import Any

import sympy
import torch

from compressc.analysis.arguments import argument
from compressc.analysis.axes import (
    Axis,
    concat_axes,
    factor_axis,
    freeze,
    product_axis,
    reshape_axes,
    split_axis,
    unify,
)
from compressc.analysis.coupling_rules.arithmetic import broadcast
from compressc.analysis.coupling_rules.rule import Analysis, Axes, Rule, Values, dims, freeze_dims
from compressc.ir import Op, TensorType, TupleType
from compressc.ir.moves import names_of
from compressc.ir.ops import overload


def _reshape(c: Analysis, op: Op) -> Values:
    return reshape_axes(c.axes(op.args[0]), c.sizes(op))


def _reshape_like(c: Analysis, op: Op) -> Values:
    out = reshape_axes(c.axes(op.args[0]), c.sizes(op))
    for axis, like in zip(out, c.axes(op.args[1]), strict=True):
        unify(axis, like)
    return out


def _reorder(c: Analysis, op: Op) -> Values:
    """Any op that reorders dimensions, drops or adds those of size 1: torch itself says how."""
    x = c.axes(op.args[0])
    labels = tuple(1 if axis.size == 1 else _label(i) for i, axis in enumerate(x))
    shape = _reordered(op.kind, labels, repr((op.args[1:], op.kwargs)), op)
    places = {label: axis for label, axis in zip(labels, x, strict=True) if label != 1}
    return tuple(places[label] if label != 1 else Axis(1) for label in shape)


@cache
def _label(position: int) -> int:
    return int(sympy.prime(position + 1))


_REORDERED: dict[tuple[Any, ...], tuple[int, ...]] = {}


def _reordered(kind: str, labels: tuple[int, ...], rest: str, op: Op) -> tuple[int, ...]:
    """The shape that a tensor gets whose sizes are all different, so that they name themselves."""
    key = (kind, labels, rest)
    if key not in _REORDERED:
        value = torch.empty(labels, device="meta")
        _REORDERED[key] = tuple(overload(kind)(value, *op.args[1:], **op.kwargs).shape)
    return _REORDERED[key]


def _expand(c: Analysis, op: Op) -> Values:
    """Copies of dimensions of size 1; `expand_as` has the axes of its example."""
    x, made = c.axes(op.args[0]), c.made(op)
    out = _filled(x, made)
    if len(op.inputs) > 1:
        like = c.axes(op.args[1])
        for axis, own in zip(out, like, strict=True):
            unify(axis, own)
    return out


def _filled(x: Axes, made: Axes) -> Axes:
    """The axes of an operand, right-aligned; new ones where it has a size of 1."""
    padded = (*(Axis(1) for _ in range(len(made) - len(x))), *x)
    return tuple(a if a.size == new.size else new for a, new in zip(padded, made, strict=True))


def _repeat(c: Analysis, op: Op) -> Values:
    """Whole copies: `repeat` and `tile`; [r, n] in one dimension, copy by copy."""
    x, made = c.axes(op.args[0]), c.made(op)
    padded = (*(Axis(1) for _ in range(len(made) - len(x))), *x)
    return tuple(_copies(axis, new, op, first=True) for axis, new in zip(padded, made, strict=True))


def _copies(axis: Axis, new: Axis, op: Op, *, first: bool) -> Axis:
    if axis.size in (1, new.size):
        return axis if axis.size == new.size else new
    times = Axis(new.size // axis.size, frozen="repeated", by=op.name)
    return product_axis(times, axis) if first else product_axis(axis, times)


def _repeat_interleave(c: Analysis, op: Op) -> Values | None:
    """Each index several times in a row: [n, r] in one dimension."""
    x, made = c.axes(op.args[0]), c.made(op)
    if argument(op, "dim") is None:  # flattens first
        return None
    (dim,) = dims(op, "dim", len(x))
    return (*x[:dim], _copies(x[dim], made[dim], op, first=False), *x[dim + 1 :])


def _select(c: Analysis, op: Op) -> Values:
    x = list(c.axes(op.args[0]))
    (dim,) = dims(op, "dim", len(x))
    freeze(x.pop(dim), "single indices are read from it", op.name)
    return tuple(x)


def _unbind(c: Analysis, op: Op) -> Values:
    x = list(c.axes(op.args[0]))
    gone = x.pop(dims(op, "dim", len(x))[0])
    freeze(gone, "its indices are told apart", op.name)
    return tuple(tuple(x) for _ in range(gone.size))


def _cat(c: Analysis, op: Op) -> Values | None:
    operands = [c.axes(ref) for ref in op.args[0]]
    rank = len(operands[0])
    dim = _joined(op, rank)
    if dim is None or any(len(axes) != rank for axes in operands):
        return None
    out = list(operands[0])
    for other in operands[1:]:
        for i, axis in enumerate(other):
            if i != dim:
                unify(out[i], axis)
    out[dim] = concat_axes([axes[dim] for axes in operands])
    return tuple(out)


#: Kinds of stacking without a `dim` -> least rank from on which they join one, and which.
_JOINS = {"hstack": (2, 1), "column_stack": (2, 1), "vstack": (2, 0), "dstack": (3, 2)}


def _joined(op: Op, rank: int) -> int | None:
    name = op.kind.removeprefix("aten.")
    if name not in _JOINS:
        return dims(op, "dim", rank)[0]
    least, dim = _JOINS[name]
    return dim if rank >= least else None


def _stack(c: Analysis, op: Op) -> Values:
    """Equal shapes side by side in a dimension of their own."""
    operands = [c.axes(ref) for ref in op.args[0]]
    out = list(broadcast(operands, [axis.size for axis in operands[0]]))
    (dim,) = dims(op, "dim", len(out) + 1)
    out.insert(dim, Axis(len(operands), frozen="values side by side", by=op.name))
    return tuple(out)


def _split(c: Analysis, op: Op) -> Values:
    x = c.axes(op.args[0])
    assert isinstance(op.type, TupleType)
    dim = split_dim(op, len(x))
    pieces = split_axis(x[dim], [c.size(item.shape[dim]) for item in op.type.items])
    return tuple((*x[:dim], piece, *x[dim + 1 :]) for piece in pieces)


def split_dim(op: Op, rank: int) -> int:
    """The dimension that a call splits: `hsplit` and its like have one of their own."""
    own = {"aten.hsplit": int(rank > 1), "aten.vsplit": 0, "aten.dsplit": 2}
    return own[op.packet] if op.packet in own else dims(op, "dim", rank)[0]


def _gated(c: Analysis, op: Op) -> Values:
    """`glu`: the first half of a dimension times the sigmoid of the second."""
    x = list(c.axes(op.args[0]))
    (dim,) = dims(op, "dim", len(x))
    half = x[dim].size // 2
    first, second = split_axis(x[dim], [half, half])
    unify(first, second)
    x[dim] = first
    return tuple(x)


def _shuffled_channels(c: Analysis, op: Op) -> Values:
    """[b, groups * n, ..] -> [b, n * groups, ..]."""
    x, groups = c.axes(op.args[0]), op.args[1]
    outer, inner = factor_axis(x[1], groups, x[1].size // groups)
    freeze(outer, "groups of a channel shuffle", op.name)
    return (x[0], product_axis(inner, outer), *x[2:])


def _made(c: Analysis, op: Op) -> Values:
    """A tensor of one number (or noise) in a shape that is written down, whatever it reads."""
    return c.made(op)


def _complex_view(c: Analysis, op: Op) -> Values:
    x = c.axes(op.args[0])
    freeze_dims(x, [-1], "real and imaginary parts", op)
    return x[:-1]


def _real_view(c: Analysis, op: Op) -> Values:
    return (*c.axes(op.args[0]), Axis(2, frozen="real and imaginary parts", by=op.name))


def _one_hot(c: Analysis, op: Op) -> Values:
    assert isinstance(op.type, TensorType)
    classes = Axis(c.sizes(op)[-1], frozen="classes told apart", by=op.name)
    return (*c.axes(op.args[0]), classes)


_SPLITS = """
split_with_sizes split chunk unsafe_split unsafe_split_with_sizes unsafe_chunk tensor_split hsplit
vsplit dsplit
"""
_CATS = "cat concat concatenate hstack vstack dstack column_stack"
_FACTORIES = "zeros ones full empty rand randn new_zeros new_ones new_full new_empty"

#: Name of an ATen op, without its overload -> rule.
FAMILIES: dict[str, Rule] = {
    **dict.fromkeys(names_of("reorder", "ones"), _reorder),
    **dict.fromkeys(names_of("reshape"), _reshape),
    **dict.fromkeys(("view_as", "reshape_as"), _reshape_like),
    **dict.fromkeys(("expand", "expand_as", "broadcast_to"), _expand),
    **dict.fromkeys(("repeat", "tile"), _repeat),
    **dict.fromkeys(_SPLITS.split(), _split),
    **dict.fromkeys(_CATS.split(), _cat),
    **dict.fromkeys(_FACTORIES.split(), _made),
    "select": _select,
    "unbind": _unbind,
    "stack": _stack,
    "glu": _gated,
    "channel_shuffle": _shuffled_channels,
    "native_channel_shuffle": _shuffled_channels,
    "view_as_complex": _complex_view,
    "view_as_real": _real_view,
    "one_hot": _one_hot,
}
#: Overloads that are unlike the others of their name.
RULES: dict[str, Rule] = {"aten.repeat_interleave.self_int": _repeat_interleave}
