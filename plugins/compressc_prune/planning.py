"""From what is wished to which indices stay: allocate, meet the target, prove, and once more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from compressc.analysis import Axis, Beside, Coupling, Width
from compressc.ir import Graph
from compressc.pipeline import Context
from compressc_prune.alike import Alike, by_block, each_alone
from compressc_prune.allocation import Allocation, Global, Rounding, Scores, Sizes, Uniform, chosen
from compressc_prune.proof import prove
from compressc_prune.sensitivity import Curve, Sensitivity, curves, record, saved
from compressc_prune.targets import COSTS, WITHIN, Costs, Target, meet

#: Cuts that do not hold are left out and the rest is chosen again, so many times.
ROUNDS = 3
#: Why a width is left whole whose like cannot be cut.
TWIN = "uniform=true, and that of another block cannot be cut"


@dataclass(frozen=True)
class Wish:
    """How much of which widths is to go.

    Attributes:
        ratio: of all indices, where there is no target.
        target: a share of a cost that is to be left.
        allocation: see the option of `prune`.
        uniform: corresponding widths of repeated blocks have one size.
        rounding: which sizes may be had.
    """

    ratio: float
    target: Target | None
    allocation: Literal["uniform", "global", "sensitivity"]
    uniform: bool
    rounding: Rounding

    @property
    def spares(self) -> str:
        """Why a width that could be cut lost nothing."""
        if self.allocation != "uniform":
            ways = {"global": "ranks above the global limit", "sensitivity": "is worth more"}
            return f"all of it {ways[self.allocation]}"
        if self.target is not None:
            return f"{self.target.option}={self.target.share:g} is met with all of it"
        return f"ratio={self.ratio:g} and round_to={self.rounding.step} leave all of it"


class Plan:
    """Which indices of which widths stay.

    Args:
        wish: how much is to go.
        graph: not changed.
        found: its coupling.
        ctx: of the pass.
        scores: of the widths that may be cut.
    """

    def __init__(
        self, wish: Wish, graph: Graph, found: Coupling, ctx: Context, scores: Scores
    ) -> None:
        self.wish, self.graph, self.found, self.ctx, self.scores = wish, graph, found, ctx, scores
        target = wish.target
        self.costs = None if target is None else Costs(graph, found, target, ctx)
        widths = list(scores)
        self.alike = by_block(graph, widths) if wish.uniform else each_alone(widths)
        self.curves: dict[Alike, Curve] = {}
        self.sizes: Sizes = {}

    def kept(self, refused: dict[Axis, str]) -> dict[Width, Tensor]:
        """Width -> ascending indices that stay; what does not hold enters `refused`.

        Raises:
            CompresscError: CC102 where a target cannot be met.
        """
        held: dict[Width, Tensor] = {}
        for _ in range(ROUNDS):
            alike = self._free(refused)
            allocation = self._allocation(alike)
            self.sizes = self._sizes(allocation)
            wanted = chosen(self.sizes, self.scores)
            held = prove(self.graph, self.found, wanted, refused, self.ctx)
            lost = len(held) < len(wanted)
            if not lost or not (self.costs or self.wish.uniform):
                break
        if self.curves:
            record(self.curves, self.sizes, self.ctx)
        return held

    def tell(self, cost: Beside) -> None:
        """A note where a target was missed, and what is left on record."""
        target = self.wish.target
        left = {name: cost.share(name) for name in ("parameters", "macs", "bytes")}
        self.ctx.record("prune", {"left": left, "at": cost.sizes})
        if target is None:
            return
        got = left[COSTS[target.option][0]]
        if target.off(got) > WITHIN:
            self.ctx.note(
                self.graph.name,
                f"{got:.1%} of the {target.name} is the nearest to {target.option}="
                f"{target.share:g} that sizes in multiples of {self.wish.rounding.step} and whole "
                "heads give (round_to=1 is finer)",
            )

    def _free(self, refused: dict[Axis, str]) -> list[Alike]:
        """What may be cut still; with one of several alike all of them are left."""
        free = []
        for kind in self.alike:
            if not any(refused.get(width.axis) for width in kind):
                free.append(kind)
                continue
            for width in kind:
                refused[width.axis] = refused.get(width.axis) or TWIN
        return free

    def _sizes(self, allocation: Allocation) -> Sizes:
        if self.wish.target is None or self.costs is None:
            return allocation.at(self.wish.ratio)
        return meet(allocation, self.wish.target, self.costs)

    def _allocation(self, alike: list[Alike]) -> Allocation:
        rounding = self.wish.rounding
        if self.wish.allocation == "global":
            return Global(alike, rounding, self.scores)
        if self.wish.allocation == "uniform":
            return Uniform(alike, rounding)
        if not self.curves:
            trial = Uniform(alike, rounding)
            self.curves = curves(self.graph, self.found, trial, self.scores, self.ctx)
        left = None if self.costs is None else self.costs.left
        return Sensitivity(alike, rounding, self.curves, saved(alike, left))
