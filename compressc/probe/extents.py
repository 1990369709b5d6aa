"""Sizes that follow when widths are cut: what a dimension becomes, as a function of the widths."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from compressc.analysis import Axis
from compressc.analysis.axes import find, leaves

#: Leaf axis of a width -> indices that are left.
Left = Mapping[Axis, int]


@dataclass(frozen=True)
class Variable:
    """A size that a layer's time depends on: of the widths in one dimension, fixed parts left out.

    Attributes:
        axis: a dimension that has it.
        full: what it is before any cut.
        fine: whether it may be any number, as heads and head widths may; else multiples of a step.
    """

    axis: Axis
    full: int
    fine: bool

    def at(self, left: Left) -> int:
        """What it is when that much of the widths is left."""
        return extent(self.axis, left)


class Variables:
    """The variables of one layer, found while its dimensions are written down.

    Args:
        cuttable: leaf axes of the widths that may be cut at all.
    """

    def __init__(self, cuttable: Collection[Axis]) -> None:
        self.cuttable = cuttable
        self.found: dict[Any, Variable] = {}

    def place(self, axis: Axis) -> int | None:
        """Which variable a dimension follows; None where nothing that may be cut is in it."""
        own = leaves(axis)
        if not any(leaf in self.cuttable for leaf in own):
            return None
        key = _key(axis, self.cuttable)
        if key not in self.found:
            fine = all(leaf.role for leaf in own if leaf in self.cuttable)
            self.found[key] = Variable(axis, extent(axis, {}), fine)
        return list(self.found).index(key)

    def factors(self, axis: Axis) -> tuple[int, ...]:
        """The variables whose product a dimension follows, each by itself."""
        root = find(axis)
        if not root.parts or root.how != "product":
            one = self.place(axis)
            return () if one is None else (one,)
        return tuple(place for part in root.parts for place in self.factors(part))


def extent(axis: Axis, left: Left) -> int:
    """How many indices the widths of an axis make, where some are cut.

    Open dimensions count as 1: their sizes are stand-ins.
    """
    root = find(axis)
    if not root.parts:
        return 1 if root.frozen == "an open dimension" else left.get(root, root.size)
    sizes = [extent(part, left) for part in root.parts]
    if root.how == "concat":
        return sum(sizes)
    total = 1
    for size in sizes:
        total *= size
    return total


def _key(axis: Axis, cuttable: Collection[Axis]) -> Any:
    """Equal for dimensions that are a fixed multiple of each other whatever is cut."""
    root = find(axis)
    if not root.parts:
        return id(root) if root in cuttable else ("fixed", root.size)
    keys = [_key(part, cuttable) for part in root.parts]
    if root.how == "concat":
        return ("concat", *keys)
    moving = [key for key in keys if not (isinstance(key, tuple) and key[0] == "fixed")]
    return moving[0] if len(moving) == 1 else ("product", *moving)
