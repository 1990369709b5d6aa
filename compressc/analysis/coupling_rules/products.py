"""Products of matrices, and attention."""

from __future__ import annotations

from collections.abc import Sequence

from compressc.analysis.axes import Axis, factor_axis, find, freeze, leaves, set_role, unify
from compressc.analysis.coupling_rules.arithmetic import broadcast
from compressc.analysis.coupling_rules.rule import Analysis, Axes, Rule, Values
from compressc.ir import Op, Ref


def _matmul(c: Analysis, op: Op) -> Values | None:
    a, b = c.axes(op.args[0]), c.axes(op.args[1])
    if len(a) < 2 or len(b) < 2:
        return None
    unify(a[-1], b[-2])
    heads = _matmul_heads(a) if len(a) == len(b) else []
    _set_heads(heads)
    for axis in (a[-1], b[-1]) if heads else ():
        if not find(axis).frozen:  # the other one is the positions
            set_role(axis, "head width")
    batch = broadcast([a[:-2], b[:-2]], c.sizes(op)[:-2])
    return (*batch, a[-2], b[-1])


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
        broadcast([c.axes(mask), (*q[:-1], k[-2])], [a.size for a in (*q[:-1], k[-2])])
    return (*q[:-1], v[-1])


RULES: dict[str, Rule] = {
    "aten.matmul": _matmul,
    "aten.bmm": _matmul,
    "aten.scaled_dot_product_attention": _attention,
}
