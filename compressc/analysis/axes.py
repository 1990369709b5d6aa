"""Axes: the dimensions of a graph's values and weights, unified where they must stay equal.

An axis is a node of a union-find forest that can also be *refined*: a reshape of 96 into (3, 4, 8)
makes it a product of three axes, a concatenation makes it a sum. Leaves are what a pass may cut;
cutting one tells, through `kept_indices`, which indices of every coupled tensor stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch


@dataclass(eq=False)
class Axis:
    """One dimension.

    Attributes:
        size: how many indices it has.
        frozen: why no index may be removed, or empty.
        normalized: a statistic (layer norm, mean) runs over it, so that removing an index is not
            the same as zeroing it.
        role: `heads` or `head width` where attention gives it one.
        target: the axis this one was unified with.
        parts: the axes it is made of, outermost first.
        how: whether the parts are a product (reshape) or a sum (concatenation).
        by: the op that froze it or that takes a statistic over it, where one did.
    """

    size: int
    frozen: str = ""
    normalized: bool = False
    role: str = ""
    target: Axis | None = None
    parts: tuple[Axis, ...] = ()
    how: Literal["product", "concat"] = "product"
    by: str = ""

    def split(self, sizes: Sequence[int], how: Literal["product", "concat"]) -> tuple[Axis, ...]:
        """Refine a leaf into parts, which inherit what is known of it."""
        self.how = how
        self.parts = tuple(
            Axis(size, self.frozen, self.normalized, self.role, by=self.by) for size in sizes
        )
        return self.parts


def find(axis: Axis) -> Axis:
    """The representative of an axis; shortens the path on the way."""
    root = axis
    while root.target is not None:
        root = root.target
    while axis.target is not None:
        axis.target, axis = root, axis.target
    return root


def freeze(axis: Axis, reason: str, by: str = "") -> None:
    """Forbid cutting any index of an axis or of its parts; `by` names the op that forbids it."""
    root = find(axis)
    if not root.frozen:
        root.frozen, root.by = reason, by
    for part in root.parts:
        freeze(part, reason, by)


def mark_normalized(axis: Axis, by: str = "") -> None:
    """Record that a statistic runs over the axis; `by` names the op that takes it."""
    root = find(axis)
    root.normalized = True
    root.by = root.by or by
    for part in root.parts:
        mark_normalized(part, by)


def set_role(axis: Axis, role: str) -> None:
    """Say what attention uses the axis for."""
    for leaf in leaves(axis):
        leaf.role = leaf.role or role


def leaves(axis: Axis) -> list[Axis]:
    """The leaf axes under an axis, in order."""
    root = find(axis)
    return [leaf for part in root.parts for leaf in leaves(part)] if root.parts else [root]


def factors(axis: Axis) -> list[Axis]:
    """The axis as a product of leaves and concatenations, outermost first; size 1 is left out."""
    root = find(axis)
    if root.parts and root.how == "product":
        return [factor for part in root.parts for factor in factors(part)]
    return [root] if root.size != 1 else []


def unify(a: Axis, b: Axis) -> None:
    """Declare two axes the same; what cannot be lined up is frozen, never guessed."""
    a, b = find(a), find(b)
    if a is b:
        return
    if a.size != b.size:
        _give_up([a, b], "sizes differ")
        return
    if a.parts and not b.parts:
        a, b = b, a
    if not a.parts:
        if a.frozen:
            freeze(b, a.frozen, a.by)
        if a.normalized:
            mark_normalized(b, a.by)
        b.role = b.role or a.role
        a.target = b
    elif a.how == b.how == "product":
        if align(factors(a), factors(b)):
            find(a).target = find(b) if find(a) is not find(b) else None
    elif a.how == b.how and [p.size for p in a.parts] == [p.size for p in b.parts]:
        for left, right in zip(a.parts, b.parts, strict=True):
            unify(left, right)
        a.target = b
    else:
        _give_up([a, b], "reshaped and concatenated in ways that do not line up")


def align(left: Sequence[Axis], right: Sequence[Axis]) -> bool:
    """Refine two factorizations of one size until they agree factor by factor, and unify those.

    Returns:
        False where they cannot agree (12 = 3*4 against 2*6): everything is frozen then.
    """
    a, b = _stack(left), _stack(right)
    while a and b:
        x, y = _next_factor(a), _next_factor(b)
        if x.size == y.size:
            unify(x, y)
        elif x.size > y.size:
            b.append(y)
            if not _refine(x, y.size, a):
                return _give_up([x, *left, *right], "reshaped in ways that do not line up")
        else:
            a.append(x)
            if not _refine(y, x.size, b):
                return _give_up([y, *left, *right], "reshaped in ways that do not line up")
    return not a and not b


def _stack(axes: Sequence[Axis]) -> list[Axis]:
    return [factor for axis in reversed(axes) for factor in reversed(factors(axis))]


def _next_factor(stack: list[Axis]) -> Axis:
    """The outermost factor left; one axis may be there twice, and be refined by now."""
    stack += reversed(factors(stack.pop()))
    return stack.pop()


def _refine(axis: Axis, outer: int, stack: list[Axis]) -> bool:
    """Split a leaf as (outer, rest) and push both back on its stack."""
    if axis.size % outer or axis.parts:
        return False
    first, rest = axis.split((outer, axis.size // outer), "product")
    stack += [rest, first]
    return True


def _give_up(axes: Sequence[Axis], reason: str) -> bool:
    for axis in axes:
        freeze(axis, reason)
    return False


def reshape_axes(axes: Sequence[Axis], sizes: Sequence[int]) -> tuple[Axis, ...]:
    """The axes after a reshape to `sizes`: groups of equal product are lined up."""
    out = tuple(Axis(size) for size in sizes)
    i = j = 0
    while i < len(axes) or j < len(out):
        left, right = list(axes[i : i + 1]), list(out[j : j + 1])
        i, j = i + 1, j + 1
        while (p := prod(x.size for x in left)) != (q := prod(x.size for x in right)):
            if p < q and i < len(axes):
                left.append(axes[i])
                i += 1
            elif p > q and j < len(out):
                right.append(out[j])
                j += 1
            else:
                _give_up([*left, *right], "reshaped in ways that do not line up")
                break
        else:
            if len(left) == len(right) == 1:
                unify(right[0], left[0])
            else:
                align(left, right)
    return out


def concat_axes(parts: Sequence[Axis]) -> Axis:
    """The axis of a concatenation."""
    if len(parts) == 1:
        return parts[0]
    return Axis(sum(part.size for part in parts), parts=tuple(parts), how="concat")


def product_axis(*parts: Axis) -> Axis:
    """The axis of a reshape that makes one dimension of several, outermost first."""
    return Axis(prod(part.size for part in parts), parts=parts)


def split_axis(axis: Axis, sizes: Sequence[int]) -> tuple[Axis, ...]:
    """The parts of an axis that is cut into consecutive pieces."""
    root = find(axis)
    if len(sizes) == 1:
        return (axis,)
    if not root.parts:
        return root.split(sizes, "concat")
    if root.how == "concat" and [part.size for part in root.parts] == list(sizes):
        return root.parts
    freeze(root, "split in ways that do not line up")
    return tuple(Axis(size, frozen="split in ways that do not line up") for size in sizes)


def factor_axis(axis: Axis, outer: int, inner: int) -> tuple[Axis, Axis]:
    """An axis as (outer, inner); frozen stand-ins where its structure does not allow it."""
    parts = (Axis(outer), Axis(inner))
    align([axis], parts)
    return parts


def kept_indices(axis: Axis, kept: Mapping[Axis, torch.Tensor]) -> torch.Tensor:
    """Which indices of an axis stay when the leaves in `kept` keep those given.

    Args:
        axis: any axis.
        kept: representative leaf -> ascending indices i64[k] that stay.

    Returns:
        Ascending indices i64[m] into the axis as it was.
    """
    root = find(axis)
    if not root.parts:
        return kept.get(root, torch.arange(root.size))
    if root.how == "concat":
        pieces, start = [], 0
        for part in root.parts:
            pieces.append(start + kept_indices(part, kept))
            start += part.size
        return torch.cat(pieces)
    indices = torch.zeros(1, dtype=torch.long)
    for part in root.parts:
        indices = (indices[:, None] * part.size + kept_indices(part, kept)[None]).flatten()
    return indices
