"""Views and writes in place, as a trace has them: what a call does to values that share memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import fx


def changes_nothing(kind: str, node: fx.Node) -> bool:
    """Same dtype, shape and strides; a copy to another layout is kept, for layout decides bits."""
    first = node.args[0]
    if not isinstance(first, fx.Node):
        return False
    before, after = first.meta["val"], node.meta["val"]
    if kind == "aten.slice.Tensor":
        start, step = [*node.args, None, None, None][2], [*node.args, 1, 1, 1, 1][4]
        if start not in (None, 0) or step != 1:
            return False
    same = texts_of_sizes(before.shape) == texts_of_sizes(after.shape)
    return bool(
        before.dtype == after.dtype
        and same
        and texts_of_sizes(before.stride()) == texts_of_sizes(after.stride())
    )


def first_operand(node: fx.Node) -> fx.Node:
    """The value that a call reads first."""
    first = node.args[0]
    assert isinstance(first, fx.Node)
    return first


def texts_of_sizes(sizes: Iterable[Any]) -> list[str]:
    """As texts: a comparison of open sizes would close them."""
    return [str(s.node.expr) if isinstance(s, torch.SymInt) else str(s) for s in sizes]


def is_read_later(write: fx.Node, group: list[fx.Node]) -> bool:
    """Does anything but the written value itself show the write: what it is a view of, a view of
    it that was made before, and is read again after?"""
    family, pending = set(group), list(group)
    while pending:
        node = pending.pop()
        kin = [user for user in node.users if is_view(user) and user.args[0] is node]
        if is_view(node):
            kin += [first_operand(node)]
        pending += [relative for relative in kin if relative not in family]
        family.update(kin)
    others = [n for n in family if n not in group and (n.graph is not write.graph or n < write)]
    users = [user for node in others for user in node.users if user.graph is write.graph]
    return any(user > write for user in users)


def is_view(node: fx.Node) -> bool:
    """Whether what a call gives shares memory with what it reads."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return False
    returns = target._schema.returns
    return any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
