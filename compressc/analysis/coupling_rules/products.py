"""Products that are summed over a dimension, and attention."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from compressc.analysis.arguments import argument
from compressc.analysis.axes import Axis, factor_axis, find, freeze, leaves, set_role, unify
from compressc.analysis.coupling_rules.arithmetic import broadcast
from compressc.analysis.coupling_rules.rule import Analysis, Axes, Rule, Values, operand
from compressc.analysis.equations import labels_of
from compressc.ir import Op, Ref


def _matmul(c: Analysis, op: Op) -> Values:
    """`matmul` and its special cases; a vector stands for a matrix of one row or column."""
    return _matrix_product(c, op.args[0], op.args[1], c.sizes(op))


def _matrix_product(c: Analysis, left: Ref, right: Ref, sizes: Sequence[int]) -> Axes:
    a, b = c.axes(left), c.axes(right)
    unify(a[-1], b[-2] if len(b) > 1 else b[0])
    heads = _matmul_heads(a) if len(a) == len(b) else []
    _set_heads(heads)
    for axis in (a[-1], b[-1]) if heads else ():
        if not find(axis).frozen:  # the other one is the positions
            set_role(axis, "head width")
    rows, columns = a[-2:-1] if len(a) > 1 else (), b[-1:] if len(b) > 1 else ()
    for ref, made in ((left, rows), (right, columns)):
        _makes(c, ref, made)
    batch = sizes[: len(sizes) - len(rows) - len(columns)]
    return (*broadcast([a[:-2], b[:-2]], batch), *rows, *columns)


def _makes(c: Analysis, ref: Ref, axes: Iterable[Axis]) -> None:
    for axis in axes:
        c.makes(ref, axis)


def _matmul_heads(a: Axes) -> list[Axis]:
    """The heads of written-out attention, scores = q @ k.T and context = scores @ v.

    Operands are [b, heads, n, d], or [b * heads, n, d] as `nn.MultiheadAttention` has them.
    """
    if len(a) > 3:
        return leaves(a[1])
    parts = leaves(a[0])
    return parts[1:] if len(a) == 3 else []


def _set_heads(axes: Sequence[Axis]) -> None:
    """Give leaves their role: several of them are groups of heads and the heads of a group."""
    wide = [axis for axis in axes if axis.size > 1]
    for outermost, axis in zip((True, *(False for _ in wide)), wide, strict=False):
        set_role(axis, "heads" if outermost else "queries per head")


def _add_product(c: Analysis, op: Op) -> Values:
    """`addmm`, `baddbmm`, `addmv`: a product, and what is added to it."""
    added, left, right = op.args[:3]
    sizes = c.sizes(op)
    return broadcast([_matrix_product(c, left, right, sizes), c.axes(added)], sizes)


def _linear(c: Analysis, op: Op) -> Values:
    """`F.linear` with weights [out, in] that are computed."""
    x, weight, bias = c.axes(op.args[0]), c.axes(op.args[1]), operand(c, op, "bias")
    unify(x[-1], weight[-1])
    out = weight[:-1]
    _makes(c, op.args[1], out)
    if bias and out:
        unify(out[0], bias[0])
    return (*x[:-1], *out)


def _bilinear(c: Analysis, op: Op) -> Values:
    """`x[.., i] w[o, i, j] y[.., j]`."""
    x, y, weight, bias = (operand(c, op, name) for name in ("input1", "input2", "weight", "bias"))
    assert x is not None
    assert y is not None
    assert weight is not None
    unify(x[-1], weight[1])
    unify(y[-1], weight[2])
    if bias:
        unify(weight[0], bias[0])
    c.makes(argument(op, "weight"), weight[0])
    lead = broadcast([x[:-1], y[:-1]], [axis.size for axis in x[:-1]])
    return (*lead, weight[0])


def _outer(c: Analysis, op: Op) -> Values:
    return (*c.axes(op.args[0]), *c.axes(op.args[1]))


def _tensordot(c: Analysis, op: Op) -> Values:
    a, b = c.axes(op.args[0]), c.axes(op.args[1])
    left = [dim % len(a) for dim in argument(op, "dims_self")]
    right = [dim % len(b) for dim in argument(op, "dims_other")]
    for i, j in zip(left, right, strict=True):
        unify(a[i], b[j])
    rest_a = [axis for dim, axis in enumerate(a) if dim not in left]
    rest_b = [axis for dim, axis in enumerate(b) if dim not in right]
    for ref, made in zip(op.args, (rest_a, rest_b), strict=False):
        _makes(c, ref, made)
    return (*rest_a, *rest_b)


def _distances(c: Analysis, op: Op) -> Values:
    """`cdist`: norms of the differences of all rows; where both are zero nothing is added."""
    a, b = c.axes(op.args[0]), c.axes(op.args[1])
    unify(a[-1], b[-1])
    return (*broadcast([a[:-2], b[:-2]], c.sizes(op)[:-2]), a[-2], b[-2])


def _einsum(c: Analysis, op: Op) -> Values:
    operands = [c.axes(ref) for ref in argument(op, "tensors")]
    labels, result = labels_of(argument(op, "equation"), [len(axes) for axes in operands])
    axes: dict[str, Axis] = {}
    for names, own in zip(labels, operands, strict=True):
        for name, axis in zip(names, own, strict=True):
            known = axes.setdefault(name, axis)
            if known.size == 1:
                axes[name] = axis
            elif axis.size > 1:
                unify(known, axis)
    for i, ref in enumerate(argument(op, "tensors")):
        others = {name for j, names in enumerate(labels) if j != i for name in names}
        _makes(c, ref, (axes[name] for name in labels[i] if name in result and name not in others))
    if len(operands) == 2:
        _einsum_roles(labels, result, axes)
    return tuple(axes[name] for name in result)


def _einsum_roles(labels: list[list[str]], result: list[str], axes: dict[str, Axis]) -> None:
    """Scores (`bhqd,bhkd->bhqk`) and context (`bhqk,bhkd->bhqd`), in any order of dimensions."""
    left, right = labels
    batch = [name for name in left if name in right and name in result]
    summed = [name for name in left if name in right and name not in result]
    free = [[name for name in names if name not in batch + summed] for names in labels]
    if len(batch) < 2 or len(summed) != 1 or not all(free):
        return
    _set_heads([leaf for name in batch[1:] for leaf in leaves(axes[name])])
    scores = find(axes[summed[0]])
    width = axes[free[1][-1]] if scores.frozen else scores
    if not find(width).frozen:
        set_role(width, "head width")


def _attention(c: Analysis, op: Op) -> Values | None:
    q, k, v = (c.axes(ref) for ref in op.args[:3])
    if not len(q) == len(k) == len(v):
        return None
    unify(q[-1], k[-1])
    unify(k[-2], v[-2])
    for left, right in zip(k[:-2], v[:-2], strict=True):
        unify(left, right)
    for left, right in zip(q[:-2], k[:-2], strict=True):
        if left.size == right.size:
            unify(left, right)
        else:  # grouped queries: heads of q are (heads of k) x (queries per head)
            groups, _ = factor_axis(left, right.size, left.size // right.size)
            unify(groups, right)
    freeze(k[-2], "a softmax runs over it", op.name)
    for axis in q[1:-2]:
        _set_heads(leaves(axis))
    for axis in (q[-1], v[-1]):
        set_role(axis, "head width")
    mask = op.args[3] if len(op.args) > 3 else op.kwargs.get("attn_mask")
    if isinstance(mask, Ref):
        _broadcast_mask(c.axes(mask), (*q[:-1], k[-2]))
    return (*q[:-1], v[-1])


def _broadcast_mask(mask: Axes, scores: Axes) -> None:
    broadcast([mask, scores], [axis.size for axis in scores])


#: Name of an ATen op, without its overload -> rule.
FAMILIES: dict[str, Rule] = {
    **dict.fromkeys(("matmul", "bmm", "mm", "mv", "dot", "vdot"), _matmul),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), _add_product),
    **dict.fromkeys(("outer", "ger"), _outer),
    "linear": _linear,
    "inner": _linear,
    "bilinear": _bilinear,
    "tensordot": _tensordot,
    "einsum": _einsum,
    "cdist": _distances,
    "scaled_dot_product_attention": _attention,
}
