"""What a graph was before the first of several cuts: shares that are to be left are of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from compressc.analysis import Axis, Coupling, Width
from compressc.analysis.axes import leaves
from compressc.ir import Graph


@dataclass(frozen=True)
class Origin:
    """The graph before the first cut.

    Attributes:
        graph: that graph.
        widths: leaf axis of a width of the graph as it is now -> the width that it was. Those that
            are left out are what they were.
    """

    graph: Graph
    widths: Mapping[Axis, Width] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[Axis, int]:
        """Leaf axis of a width as it is now -> indices that it had."""
        return {leaf: width.size for leaf, width in self.widths.items()}


@dataclass(frozen=True)
class Uncut:
    """A graph before the first cut of a width.

    Attributes:
        graph: the graph.
        found: its coupling.
        whole: what it was when it still had all its blocks.
    """

    graph: Graph
    found: Coupling
    whole: Graph

    def origin(self, now: Coupling) -> Origin:
        """Follow widths through cuts, which change sizes and no structure.

        Args:
            now: the coupling of the graph as it is.
        """
        known = {width.axis: width for width in self.found.widths()}
        places = {(slot.op, slot.tensor, slot.dim): slot.axis for slot in self.found.slots}
        found: dict[Axis, Width] = {}
        for slot in now.slots:
            was = places[slot.op, slot.tensor, slot.dim]
            for frozen in (True, False):
                theirs, ours = _wide(was, frozen), _wide(slot.axis, frozen)
                if len(theirs) == len(ours):  # where one has a single index left, others tell
                    pairs = zip(ours, theirs, strict=True)
                    found |= {a: known[b] for a, b in pairs if b in known and a not in found}
        return Origin(self.whole, found)

    def left(self, now: Coupling) -> dict[Width, int]:
        """Width before the first cut -> indices that are left; those that lost none left out."""
        sizes = {width: leaf.size for leaf, width in self.origin(now).widths.items()}
        every = {width: sizes.get(width, 1) for width in self.found.widths()}
        return {width: size for width, size in every.items() if size < width.size}


def _wide(axis: Axis, frozen: bool) -> list[Axis]:
    own = dict.fromkeys(leaves(axis))
    return [leaf for leaf in own if leaf.size > 1 and bool(leaf.frozen) == frozen]
