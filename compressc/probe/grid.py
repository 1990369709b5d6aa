"""At which sizes a layer is measured, and what lies between them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from itertools import product
from statistics import mean

from compressc.analysis import Axis
from compressc.analysis.axes import leaves
from compressc.probe.extents import Variable
from compressc.probe.layers import Layer

#: Shares of a size that are measured: the time rises in proportion to what a layer reads.
SHARES = (1 / 8, 1 / 2, 1)
#: Sizes that are measured of what a layer with much work makes: kernels make so many channels at a
#: time, and the rest of a division costs more than its share.
MADE = 16
#: A layer with more than this share of the work is heavy.
SHARE = 0.02
#: Sizes are multiples of this, where a size has so many times as many indices.
STEP, WIDE = 8, 2
#: Steps that the time of a layer may have, and the indices that are looked through for them.
STEPS, SCANNED = (16, 8, 4, 2), 32
#: The least size that is looked at for steps.
LEAST = 64
#: The rise within a step is no more than this share of the rise from one to the next; of a straight
#: line it is a half.
FLAT = 0.25
#: A stair whose steps are lower than this share of the time is none.
LEVEL = 0.01

Sizes = tuple[int, ...]


def grid(layer: Layer, movable: Collection[Axis], total_macs: int) -> list[Sizes]:
    """The sizes that a layer is measured at, the full ones first.

    Args:
        layer: the layer.
        movable: leaves of the widths that are going to be cut; other sizes stay as they are.
        total_macs: of all layers.
    """
    heavy = layer.macs >= SHARE * total_macs and len(layer.variables) < 3
    last = len(layer.variables) - 1
    levels = [
        sorted(_levels(variable, movable, heavy and place == last), reverse=True)
        for place, variable in enumerate(layer.variables)
    ]
    return [tuple(sizes) for sizes in product(*levels)]


def _levels(variable: Variable, movable: Collection[Axis], fine: bool) -> set[int]:
    full = variable.full
    if not any(leaf in movable for leaf in leaves(variable.axis)):
        return {full}
    step = 1 if variable.fine or full < WIDE * STEP else STEP
    shares = [place / MADE for place in range(1, MADE + 1)] if fine else SHARES
    rounded = (max(step, round(full * share / step) * step) for share in shares)
    return {size for size in rounded if size < full} | {full}


def scan(layers: Sequence[Layer], movable: Collection[Axis]) -> tuple[Layer, list[Sizes]] | None:
    """Sizes one after the other, of the layer with the most work, that tell the steps of time.

    Args:
        layers: of a graph.
        movable: leaves of the widths that are going to be cut.
    """
    for layer in sorted(layers, key=lambda layer: -layer.macs):
        last = layer.variables[-1]
        moves = any(leaf in movable for leaf in leaves(last.axis))
        if moves and not last.fine and last.full >= LEAST:
            top = max(last.full // 2 // SCANNED, 1) * SCANNED
            sizes = range(top - SCANNED + 1, top + 1)
            return layer, [(*layer.full[:-1], size) for size in sizes]
    return None


def step_of(times: Sequence[float]) -> int:
    """The largest step of a curve that is a stair; 1 for what is none.

    Args:
        times: of sizes one after the other, the last a multiple of every step; as many as two of
            the largest steps at least.
    """
    for step in STEPS:
        blocks = [times[place : place + step] for place in range(0, len(times), step)]
        means = [mean(block) for block in blocks]
        between = (means[-1] - means[0]) / (len(blocks) - 1)
        half = step // 2
        inside = mean(mean(block[half:]) - mean(block[:half]) for block in blocks)
        if between > LEVEL * means[-1] and inside <= FLAT * between:
            return step
    return 1


def interpolated(
    levels: Sequence[Sequence[int]], at: Callable[[Sizes], float], sizes: Sizes
) -> float:
    """The time at sizes between those measured: linear in each size (and so exact for a product).

    Below the least size that was measured the line goes on, down to nothing.

    Args:
        levels: of each variable, ascending, those that were measured.
        at: the time at measured sizes.
        sizes: that are asked for.
    """
    corners: list[tuple[Sizes, float]] = [((), 1.0)]
    for own, size in zip(levels, sizes, strict=True):
        corners = [
            ((*place, level), share * weight)
            for place, share in corners
            for level, weight in _between(own, size)
        ]
    return max(0.0, sum(share * at(place) for place, share in corners))


def _between(levels: Sequence[int], size: int) -> list[tuple[int, float]]:
    """The levels around a size and their weights."""
    place = bisect_left(levels, size)
    if place < len(levels) and levels[place] == size:
        return [(size, 1.0)]
    if len(levels) == 1:
        return [(levels[0], 1.0)]
    place = min(max(place, 1), len(levels) - 1)
    low, high = levels[place - 1], levels[place]
    share = (size - low) / (high - low)
    return [(low, 1 - share), (high, share)]
