"""Reading and writing at positions: the dimension they count along is frozen, the others stay."""

from __future__ import annotations

from compressc.analysis.arguments import argument
from compressc.analysis.axes import freeze, unify
from compressc.analysis.coupling_rules.arithmetic import broadcast
from compressc.analysis.coupling_rules.rule import (
    Analysis,
    Axes,
    Rule,
    Values,
    dims,
    freeze_dims,
    freeze_others,
    fresh,
)
from compressc.ir import Op, Ref

_READ = "single indices are read from it"
_WRITTEN = "single indices are written to"


def _line_up(a: Axes, b: Axes, besides: int, reason: str, op: Op) -> None:
    """Two operands walk in step along all dimensions but one."""
    for dim, (left, right) in enumerate(zip(a, b, strict=True)):
        if dim == besides or left.size != right.size:
            freeze(left, reason, op.name)
            freeze(right, reason, op.name)
        else:
            unify(left, right)


def _gather(c: Analysis, op: Op) -> Values | None:
    """`out[i][j] = x[i][index[i][j]]`: the result has the shape of the index."""
    x, index = c.axes(op.args[0]), c.axes(argument(op, "index") or argument(op, "indices"))
    if argument(op, "dim") is None or len(x) != len(index):
        return None
    if c.sizes(op) != [axis.size for axis in index]:  # `take_along_dim` broadcasts
        return None
    _line_up(x, index, dims(op, "dim", len(x))[0], _READ, op)
    return index


def _scatter(c: Analysis, op: Op) -> Values | None:
    """`out[i][index[i][j]] = src[i][j]`: the result has the shape of what is written to."""
    x, index = c.axes(op.args[0]), c.axes(argument(op, "index"))
    (dim,) = dims(op, "dim", len(x)) or (0,)
    if len(x) != len(index):
        return None
    _line_up(x, index, dim, _WRITTEN, op)
    source = argument(op, "src")
    if isinstance(source, Ref):
        _line_up(x, c.axes(source), dim, _WRITTEN, op)
    return x


def _write_rows(c: Analysis, op: Op) -> Values | None:
    """`index_add`, `index_copy`, `slice_scatter`: whole rows of one dimension are written."""
    x = c.axes(op.args[0])
    name = "src" if "scatter" in op.kind else "source"
    source = argument(op, name)
    if not isinstance(source, Ref) or len(c.axes(source)) != len(x):
        return None
    _line_up(x, c.axes(source), dims(op, "dim", len(x))[0], _WRITTEN, op)
    if isinstance(index := argument(op, "index"), Ref):
        freeze_dims(c.axes(index), range(len(c.axes(index))), _WRITTEN, op)
    return x


def _write_row(c: Analysis, op: Op) -> Values | None:
    """`select_scatter`: one index of a dimension is written."""
    x, source = c.axes(op.args[0]), c.axes(op.args[1])
    (dim,) = dims(op, "dim", len(x))
    freeze(x[dim], _WRITTEN, op.name)
    broadcast([(*x[:dim], *x[dim + 1 :]), source], [a.size for i, a in enumerate(x) if i != dim])
    return x


def _index(c: Analysis, op: Op) -> Values | None:
    """`x[:, i, j]`: the dimensions with positions are read, and make way for those of the index."""
    x = c.axes(op.args[0])
    indexed = [dim for dim, ref in enumerate(op.args[1]) if ref is not None]
    positions = [c.axes(op.args[1][dim]) for dim in indexed]
    if not indexed:
        return None
    freeze_dims(x, indexed, _READ, op)
    for axes in positions:
        freeze_dims(axes, range(len(axes)), _READ, op)
    wide = max(map(len, positions))
    left = len(x) - len(indexed)
    if len(c.sizes(op)) != left + wide:  # a mask reads several dimensions at once
        return None
    together = indexed[-1] - indexed[0] == len(indexed) - 1
    first = indexed[0] if together else 0
    kept = [axis for dim, axis in enumerate(x) if dim not in indexed]
    made = fresh(c.sizes(op)[first : first + wide], "positions read", op.name)
    return (*kept[:first], *made, *kept[first:])


def _put(c: Analysis, op: Op) -> Values | None:
    """`x[:, i] = v`, and `x[mask] = v`, which is `where(mask, v, x)`."""
    x = c.axes(op.args[0])
    values = c.axes(argument(op, "values"))
    if any(axis.size > 1 for axis in values):
        return None
    for dim, ref in enumerate(argument(op, "indices")):
        if ref is None:
            continue
        own = c.axes(ref)
        if not c.is_mask(ref):
            freeze(x[dim], _WRITTEN, op.name)
            freeze_dims(own, range(len(own)), _WRITTEN, op)
        elif len(argument(op, "indices")) > 1:  # the mask stands for several dimensions
            return None
        else:
            for axis, told in zip(x, own, strict=False):
                unify(axis, told)
    return x


def _fill(c: Analysis, op: Op) -> Values:
    """`index_fill`: one number is written to rows of one dimension."""
    x, index = c.axes(op.args[0]), c.axes(argument(op, "index"))
    freeze_dims(x, dims(op, "dim", len(x)), _WRITTEN, op)
    freeze_dims(index, range(len(index)), _WRITTEN, op)
    return x


def _bucketize(c: Analysis, op: Op) -> Values:
    """Each element for itself: between which boundaries it lies."""
    freeze_others(c, op, "boundaries of buckets")
    return c.axes(op.args[0])


def _copy(c: Analysis, op: Op) -> Values:
    """A value takes the place of another of that shape."""
    x = c.axes(op.args[0])
    return broadcast([x, c.axes(op.args[1])], [axis.size for axis in x])


#: Name of an ATen op, without its overload -> rule.
FAMILIES: dict[str, Rule] = {
    **dict.fromkeys(("gather", "take_along_dim"), _gather),
    **dict.fromkeys(("scatter", "scatter_add", "scatter_reduce"), _scatter),
    **dict.fromkeys(("slice_scatter", "index_add", "index_copy"), _write_rows),
    "select_scatter": _write_row,
    "index": _index,
    "_unsafe_index": _index,
    "index_put": _put,
    "index_fill": _fill,
    "bucketize": _bucketize,
    "copy": _copy,
}
