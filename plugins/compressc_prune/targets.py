"""Meeting a target: how far along an allocation's path a share of the cost is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from compressc.analysis import Coupling, Width, beside
from compressc.errors import CompresscError
from compressc.ir import Graph
from compressc.pipeline import Context
from compressc_prune.alike import Alike
from compressc_prune.allocation import Allocation, Sizes
from compressc_prune.trials import cut_copy

#: A target is met where what is left is within this share of it.
WITHIN = 0.03
#: A bisection ends at this share of the target, or after so many tries.
NEAR, TRIES = 0.005, 14
#: The share of all indices that is tried for the smallest model.
MOST = 0.999
#: Option -> what it is called among costs, and in a sentence.
COSTS = {
    "macs": ("macs", "MACs"),
    "params": ("parameters", "parameters"),
    "bytes": ("bytes", "bytes"),
}


@dataclass(frozen=True)
class Target:
    """A share of a cost that is to be left.

    Attributes:
        option: `macs`, `params`, `bytes` or `latency`.
        share: of what the graph costs before the first cut.
    """

    option: str
    share: float

    @property
    def name(self) -> str:
        """In a sentence."""
        return COSTS[self.option][1] if self.option in COSTS else "time"

    def off(self, left: float) -> float:
        """How far what is left is from it, as a share of it."""
        return abs(left - self.share) / self.share


class Costs:
    """What is left of a graph's cost after cuts, each looked at once.

    Args:
        graph: that is cut.
        found: its coupling.
        target: of which cost.
        ctx: gives the size of a sample.
        of: the graph whose cost is the whole.
    """

    def __init__(
        self, graph: Graph, found: Coupling, target: Target, ctx: Context, of: Graph
    ) -> None:
        self.graph, self.found, self.target, self.of = graph, found, target, of
        self.example = ctx.example()
        self.known: dict[tuple[tuple[int, int], ...], float] = {}

    def left(self, sizes: Sizes) -> float:
        """The share that is left; which indices stay does not matter."""
        key = tuple(sorted((id(kind), size) for kind, size in sizes.items()))
        if key not in self.known:
            kept = {width: torch.arange(n) for kind, n in sizes.items() for width in kind}
            self.known[key] = self._left(kept)
        return self.known[key]

    def _left(self, kept: Mapping[Width, torch.Tensor]) -> float:
        with cut_copy(self.graph, self.found, kept) as copy:
            return beside(copy, self.of, self.example).share(COSTS[self.target.option][0])


class Left(Protocol):
    """Says what share of a cost is left."""

    def left(self, sizes: Sizes) -> float:
        """The share that sizes leave."""


def unreachable(target: Target, least: float) -> CompresscError:
    """CC102 for a target that no cut meets, with what the smallest sizes leave."""
    return CompresscError(
        "CC102",
        f"option '{target.option}' of pass 'prune': no cut leaves {target.share:.1%} of the "
        f"{target.name}",
        got=f"{least:.1%} at least",
        hint="normalized=True, attention=both, round_to=1 and a shorter keep let more be cut; so "
        "do student(depth=...) and lowrank",
    )


def meet(allocation: Allocation, target: Target, costs: Left) -> Sizes:
    """The sizes on an allocation's path that come nearest to a target.

    Between two neighbours on the path the widths go over one by one, a step of the rounding at a
    time, so that one coarse step of all does not miss it.

    Raises:
        CompresscError: CC102 where even the smallest sizes leave more.
    """
    low, high = dict[Alike, int](), allocation.at(MOST)
    least = costs.left(high)
    if least > target.share and target.off(least) > WITHIN:
        raise unreachable(target, least)
    first, last = 0.0, MOST
    for _ in range(TRIES):
        middle = (first + last) / 2
        sizes = allocation.at(middle)
        left = costs.left(sizes)
        if target.off(left) <= NEAR:
            return sizes
        if left > target.share:
            first, low = middle, sizes
        else:
            last, high = middle, sizes
    return _between(allocation, low, high, target, costs)


def _between(allocation: Allocation, low: Sizes, high: Sizes, target: Target, costs: Left) -> Sizes:
    """Of all steps from `low` (too large) to `high` (too small) the one nearest to the target."""
    path = [dict(low)]
    for kind, size in high.items():
        step = allocation.rounding.step_of(kind[0])
        now = low.get(kind, kind[0].size)
        while now > size:
            now = max(size, (now - 1) // step * step)
            path.append({**path[-1], kind: now})
    first, last = 0, len(path) - 1
    while last - first > 1:
        middle = (first + last) // 2
        if costs.left(path[middle]) > target.share:
            first = middle
        else:
            last = middle
    return min((path[first], path[last]), key=lambda sizes: target.off(costs.left(sizes)))
