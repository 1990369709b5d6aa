"""What is measured for a graph: rows of layers at sizes, and the whole of it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from compressc.analysis import Axis, Coupling
from compressc.ir import Graph, dimension_symbols
from compressc.probe.extents import Left
from compressc.probe.grid import STEP, Sizes, grid, scan
from compressc.probe.layers import Layer, Layers, layers_of

#: Parts of every width, in hundredths, that the whole model is measured at.
PARTS = (100, 50, 25)


@dataclass(frozen=True)
class Wanted:
    """One row: a layer at sizes; a part of the whole model where there is no layer."""

    signature: str
    sizes: Sizes
    layer: Layer | None = None


@dataclass(frozen=True)
class Plan:
    """The rows of a graph at one batch size.

    Attributes:
        layers: of the graph.
        structure: hash of them and their sizes: weights and names do not count.
        batch: the size.
        rows: what is to be measured; the first is the layer with the most work, the last are whole
            models.
        parts: of `PARTS`, what is left of each width there.
    """

    layers: Layers
    structure: str
    batch: int
    rows: tuple[Wanted, ...]
    parts: dict[int, Left]

    @property
    def whole(self) -> str:
        """What the rows of the whole model are called; their size is one of `PARTS`."""
        return f"whole {self.structure[:16]} at batch {self.batch}"


def plan_of(
    graph: Graph, found: Coupling, sizes: Mapping[str, int], batch: int, movable: Collection[Axis]
) -> Plan:
    """What is to be measured of a graph.

    Args:
        graph: with its sizes over width symbols.
        found: its coupling.
        sizes: of its open dimensions, the batch not counted.
        batch: size of every first dimension that is open.
        movable: leaves of the widths that are going to be cut.
    """
    places = dimension_symbols(graph)
    first = {name: batch for name, (_, dim) in places.items() if dim == 0}
    layers = layers_of(graph, found, {**sizes, **first})
    total = sum(layer.macs for layer in layers.timed)
    ordered = sorted(layers.timed, key=lambda layer: -layer.macs)
    rows = [
        Wanted(layer.signature, at, layer)
        for layer in ordered
        for at in grid(layer, movable, total)
    ]
    looked = scan(ordered, movable)
    rows += [Wanted(looked[0].signature, at, looked[0]) for at in looked[1]] if looked else []
    unique = {(row.signature, row.sizes): row for row in rows}
    texts = sorted(f"{layer.signature} {layer.full}" for layer in layers.timed)
    structure = hashlib.sha256("\n".join([*texts, *sorted(layers.fixed)]).encode()).hexdigest()
    parts = {part: part_left(found, part) for part in PARTS}
    plan = Plan(layers, structure, batch, tuple(unique.values()), parts)
    return replace(plan, rows=(*plan.rows, *(Wanted(plan.whole, (part,)) for part in PARTS)))


def part_left(found: Coupling, part: int) -> Left:
    """So many hundredths of each width that a cut may be made of without asking for more."""
    left = {}
    for width in found.widths():
        axis = width.axis
        if width.producers and not (axis.frozen or axis.normalized or axis in found.stale):
            step = 1 if axis.role or axis.size < 2 * STEP else STEP
            left[axis] = min(axis.size, max(1, round(axis.size * part / 100 / step)) * step)
    return left
