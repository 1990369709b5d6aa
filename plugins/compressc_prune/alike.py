"""Widths that are to have one size: each by itself, or all of one kind of repeated block."""

from __future__ import annotations

from collections.abc import Iterable

from compressc.analysis import Width, find_blocks
from compressc.ir import Graph

#: Widths that get one size.
Alike = tuple[Width, ...]


def each_alone(widths: Iterable[Width]) -> list[Alike]:
    """Every width has a size of its own."""
    return [(width,) for width in widths]


def by_block(graph: Graph, widths: Iterable[Width]) -> list[Alike]:
    """Widths that corresponding ops of repeated blocks make are alike, so that one number says it.

    A configuration of Hugging Face has one number of heads, one head width and one MLP width.

    Args:
        graph: the graph.
        widths: of its coupling.
    """
    places: dict[str, tuple[object, ...]] = {}
    for block in find_blocks(graph):  # outer blocks first: the innermost place counts last
        for member in block.members:
            for position, name in enumerate(member):
                places.setdefault(name, (block.name, position))
    kinds: dict[object, list[Width]] = {}
    for width in widths:
        made = {places.get(name, (name,)) for name in width.producers}
        kinds.setdefault((frozenset(made), width.axis.role, width.size), []).append(width)
    return [tuple(kind) for kind in kinds.values()]
