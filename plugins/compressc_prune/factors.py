"""Widths that are factors of one dimension: groups and the channels of each, blocks and their size.

Where both are cut by half, three quarters of the dimension go: only one of them is cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations, product

from compressc.analysis import Axis, Coupling, Width
from compressc.analysis.axes import find, leaves

#: Why a factor is left whole.
INSTEAD = "another factor of the same channels is cut instead"


def cofactors(found: Coupling) -> dict[Axis, set[Axis]]:
    """Leaf -> the leaves that it is multiplied with in a dimension that a weight makes."""
    pairs: dict[Axis, set[Axis]] = {}
    for _, axis in found.produced:
        for one, other in _pairs(axis):
            pairs.setdefault(one, set()).add(other)
            pairs.setdefault(other, set()).add(one)
    return pairs


def _pairs(axis: Axis) -> Iterator[tuple[Axis, Axis]]:
    root = find(axis)
    if root.how == "product":
        for one, other in combinations(root.parts, 2):
            yield from product(leaves(one), leaves(other))
    for part in root.parts:
        yield from _pairs(part)


def doubled(widths: Iterable[Width], pairs: Mapping[Axis, set[Axis]]) -> set[Axis]:
    """Leaves of widths that would be cut besides a factor that has more indices to choose from.

    Heads and head widths are chosen by an option, both together too.
    """
    taken: set[Axis] = set()
    left: set[Axis] = set()
    for width in sorted(widths, key=lambda width: -width.size):
        axis = width.axis
        others = (other for other in pairs.get(axis, ()) if not (other.role and axis.role))
        (left if any(other in taken for other in others) else taken).add(axis)
    return left
