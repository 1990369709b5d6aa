"""What a graph will take when its widths are cut, from a table of the latencies of its layers."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping

from compressc.analysis import Axis
from compressc.errors import CompresscError
from compressc.measure.table import LatencyTable
from compressc.probe.extents import Left
from compressc.probe.grid import Sizes, grid, interpolated, scan, step_of
from compressc.probe.layers import Layer
from compressc.probe.plan import Plan


class Times:
    """Predicted times of a graph.

    Its layers add up. The whole was measured, too, uncut and at parts of its widths: by these times
    the sums are put right, for what no layer accounts for and for caches that a single layer has to
    itself.

    Attributes:
        refused: op whose layer the runtime did not run -> what it said.

    Args:
        plan: of the graph.
        movable: leaves of the widths that are going to be cut.
        table: has all rows of the plan, but for layers that the runtime refused: their time counts
            as fixed.

    Raises:
        CompresscError: CC304 where it does not.
    """

    def __init__(self, plan: Plan, movable: Collection[Axis], table: LatencyTable) -> None:
        self.plan, self.table = plan, table
        total = sum(layer.macs for layer in plan.layers.timed)
        self.levels: dict[str, list[list[int]]] = {}
        self.layers: list[tuple[Layer, str]] = []
        self.refused: dict[str, str] = {}
        for layer in plan.layers.timed:
            if layer.signature in table.refused:
                self.refused[layer.op] = table.refused[layer.signature]
                continue
            places = grid(layer, movable, total)
            key = f"{layer.signature} {layer.full}"
            self.levels[key] = [sorted(set(column)) for column in zip(*places, strict=True)]
            self.layers.append((layer, key))
        self._known: dict[tuple[str, Sizes], float] = {}
        every = [(self.layers_at(left), part) for part, left in plan.parts.items()]
        sums = {total: self._ms(plan.whole, (part,)) for total, part in reversed(every)}
        self.points = sorted(sums.items())
        layers_ms, self.whole = self.points[-1]
        if self.whole <= 0 or (self.layers and layers_ms <= 0):
            raise self._misfit("0 ms for the whole model or all of its layers")

    def of(self, layer: Layer, key: str, sizes: Sizes) -> float:
        """Milliseconds of one layer at sizes of its variables."""
        if (key, sizes) not in self._known:
            at = lambda place: self._ms(layer.signature, place)  # noqa: E731
            self._known[key, sizes] = interpolated(self.levels[key], at, sizes)
        return self._known[key, sizes]

    def layers_at(self, left: Left) -> float:
        """Milliseconds of all layers together where that much of the widths is left."""
        return sum(self.of(layer, key, layer.at(left)) for layer, key in self.layers)

    def at(self, left: Left) -> float:
        """Milliseconds of the graph where that much of the widths is left."""
        return self.corrected(self.layers_at(left))

    def corrected(self, layers_ms: float) -> float:
        """Milliseconds of the graph, from those of its layers: on the line between whole models."""
        if len(self.points) == 1:
            return self.whole * layers_ms / max(self.points[0][0], 1e-9)
        place = max(1, min(bisect_left(self.points, (layers_ms, 0.0)), len(self.points) - 1))
        (a, low), (b, high) = self.points[place - 1 : place + 1]
        slope = max((high - low) / (b - a), 0.0)
        return max(low + slope * (layers_ms - a), 1e-3 * self.whole)

    def reading(self, leaves: Collection[Axis]) -> Part:
        """The layers whose time depends on some widths."""
        return Part(self, [pair for pair in self.layers if _follows(pair[0], leaves)])

    def step(self, movable: Collection[Axis]) -> int:
        """The step of the time curve: what `round_to` is worth rounding to; 1 where it has none."""
        looked = scan([layer for layer, _ in self.layers], movable)
        if looked is None:
            return 1
        layer, every = looked
        if self.refused and any(self.table.row(layer.signature, at) is None for at in every):
            return 1  # another layer was looked at, and is refused
        return step_of([self._ms(layer.signature, sizes) for sizes in every])

    def _ms(self, signature: str, sizes: Sizes) -> float:
        row = self.table.row(signature, sizes)
        if row is None:
            raise self._misfit(f"no time of {signature} at {list(sizes)}")
        return row.ms

    def _misfit(self, got: str) -> CompresscError:
        return CompresscError(
            "CC304",
            f"the table has the layers of this model at batch {self.plan.batch}",
            got=got,
            hint="run compressc probe on this very model, and its measure.py on the device",
        )


class Part:
    """Some layers of a graph, so that what changes with few widths is quickly told.

    Args:
        times: of the graph.
        layers: of it, and their keys.
    """

    def __init__(self, times: Times, layers: list[tuple[Layer, str]]) -> None:
        self.times, self.layers = times, layers

    def at(self, left: Left) -> float:
        """Milliseconds of them together where that much of the widths is left."""
        return sum(self.times.of(layer, key, layer.at(left)) for layer, key in self.layers)


def _follows(layer: Layer, leaves: Collection[Axis]) -> bool:
    left: Mapping[Axis, int] = {leaf: 1 for leaf in leaves if leaf.size > 1}
    return layer.at(left) != layer.full
