"""Element-wise ops, and reductions over dimensions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from compressc.analysis.arguments import argument
from compressc.analysis.axes import Axis, freeze, mark_normalized, unify
from compressc.analysis.coupling_rules.rule import (
    Analysis,
    Axes,
    Rule,
    Values,
    dims,
    each_result,
)
from compressc.ir import Op, TupleType
from compressc.ir.moves import names_of
from compressc.ir.ops import refs_of


def pointwise(c: Analysis, op: Op) -> Values:
    """Element by element: operands are broadcast to one shape."""
    return _broadcast_operands(c, op)


def _broadcast_operands(c: Analysis, op: Op) -> Axes:
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


def _broadcast_tensors(c: Analysis, op: Op) -> Values:
    return each_result(op, _broadcast_operands(c, op))


def _same(c: Analysis, op: Op) -> Values:
    """Each element for itself; of another operand, if there is one, only the dtype is read."""
    return each_result(op, c.axes(op.args[0]))


# ---- reductions ---------------------------------------------------------------------------------

#: What a reduction means for a width it runs over.
Effect = Callable[[Analysis, Op, Axis], None]


def _sums(c: Analysis, op: Op, axis: Axis) -> None:
    """An index of zeros adds nothing: it is the product with a row of ones."""


def _measures(c: Analysis, op: Op, axis: Axis) -> None:
    """A statistic: an index that is zero counts, one that is gone does not."""
    mark_normalized(axis, op.name)
    values = isinstance(op.type, TupleType) and not re.search("_mean|aminmax", op.kind)
    if values and c.reads(op, 1):  # the second result are positions
        _tells_apart(c, op, axis)


def _tells_apart(c: Analysis, op: Op, axis: Axis) -> None:
    freeze(axis, "its indices are told apart", op.name)


def _norm(c: Analysis, op: Op, axis: Axis) -> None:
    """Sums of powers (or the largest one) of absolute values: zero adds nothing to them."""
    powers = [argument(op, name) for name in ("ord", "p")]
    negative = any(isinstance(power, int | float) and power < 0 for power in powers)
    (_measures if negative else _sums)(c, op, axis)


def _reduce(effect: Effect) -> Rule:
    def rule(c: Analysis, op: Op) -> Values:
        x = c.axes(op.args[0])
        over = set(dims(op, "dim", len(x)))
        for dim in over:
            effect(c, op, x[dim])
        kept = ((dim, Axis(1) if dim in over else axis) for dim, axis in enumerate(x))
        keep = bool(argument(op, "keepdim"))
        return each_result(op, tuple(axis for dim, axis in kept if keep or dim not in over))

    return rule


def _similarity(effect: Effect, *, last: bool) -> Rule:
    """Two operands are broadcast, multiplied (or subtracted) and summed over one dimension."""

    def rule(c: Analysis, op: Op) -> Values:
        operands = [c.axes(ref) for ref in op.args[:2]]
        rank = max(map(len, operands))
        sizes = [max(_size(axes, rank, dim) for axes in operands) for dim in range(rank)]
        x = broadcast(operands, sizes)
        dim = rank - 1 if last else dims(op, "dim", rank)[0]
        effect(c, op, x[dim])
        middle = (Axis(1),) if argument(op, "keepdim") else ()
        return (*x[:dim], *middle, *x[dim + 1 :])

    return rule


def _size(axes: Axes, rank: int, dim: int) -> int:
    own = dim - rank + len(axes)
    return axes[own].size if own >= 0 else 1


_STATISTICS = """
mean nanmean amax amin aminmax max min logsumexp prod all std var std_mean var_mean median nanmedian
mode
"""
#: Reductions -> what they mean for a width they run over. All overloads of a name are alike.
REDUCTIONS: dict[str, Effect] = {
    **dict.fromkeys(("sum", "nansum", "any", "count_nonzero"), _sums),
    **dict.fromkeys(("linalg_vector_norm", "norm", "frobenius_norm"), _norm),
    **dict.fromkeys(
        ["mean", "nanmean", "amax", "amin", "aminmax", "max", "min", "logsumexp", "prod", "all"],
        _measures,
    ),
    **dict.fromkeys(
        ["std", "var", "std_mean", "var_mean", "median", "nanmedian", "mode"], _measures
    ),
    **dict.fromkeys(("kthvalue", "argmax", "argmin"), _tells_apart),
}

_SAME = """
real imag conj resolve_conj
feature_dropout alpha_dropout feature_alpha_dropout dropout native_dropout rrelu log_sigmoid
zeros_like ones_like full_like empty_like rand_like randn_like fill
bernoulli nan_to_num
"""
#: Other names of element-wise ops, which torch tags under their first name alone.
_POINTWISE = """
__and__ __or__ __xor__ __lshift__ __rshift__ absolute arccos arccosh arcsin arcsinh arctan arctan2
arctanh complex divide fix floor_divide greater greater_equal hardswish less less_equal
masked_fill multiply negative not_equal polar rsub subtract true_divide where
"""
#: Ops whose result has the axes of their first operand. All overloads of a name are alike.
SAME: dict[str, Rule] = dict.fromkeys([*names_of("same", "cast"), *_SAME.split()], _same)

RULES: dict[str, Rule] = {
    "quantized_decomposed.quantize_per_tensor": _same,
    "quantized_decomposed.dequantize_per_tensor": _same,
    "aten.broadcast_tensors": _broadcast_tensors,
    "aten.cosine_similarity": _similarity(_sums, last=False),
    "aten.pairwise_distance": _similarity(_sums, last=True),
}
#: Name of an ATen op, without its overload -> rule.
FAMILIES: dict[str, Rule] = {
    **{name: _reduce(effect) for name, effect in REDUCTIONS.items()},
    **dict.fromkeys(_POINTWISE.split(), pointwise),
    **SAME,
}
