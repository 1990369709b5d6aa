"""From what is wished to which indices stay: allocate, meet the target, prove, and once more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from compressc.analysis import Axis, Coupling, Width
from compressc.ir import Graph
from compressc.pipeline import Context
from compressc.probe import RUNTIME
from compressc_prune.alike import Alike, by_block, each_alone
from compressc_prune.allocation import (
    LEAST,
    Allocation,
    Global,
    Rounding,
    Scores,
    Sizes,
    Uniform,
    chosen,
)
from compressc_prune.latency import Latency
from compressc_prune.meeting import Met, knapsack_of, meet_latency, path_of
from compressc_prune.origin import Origin
from compressc_prune.proof import prove
from compressc_prune.sensitivity import Curve, Sensitivity, curves, record, saved
from compressc_prune.targets import COSTS, MOST, WITHIN, Costs, Target, meet, unreachable

#: Cuts that do not hold are left out and the rest is chosen again, so many times.
ROUNDS = 3
#: Why a width is left whole whose like cannot be cut.
TWIN = "uniform=true, and that of another block cannot be cut"
#: Why a width is left whole that takes no less time when it is cut.
UNPAID = "by the table of latencies no cut of it saves time"
#: How widths are shared out.
Way = Literal["uniform", "global", "sensitivity", "knapsack"]


@dataclass(frozen=True)
class Wish:
    """How much of which widths is to go.

    Attributes:
        ratio: of all indices, where there is no target.
        target: a share of a cost that is to be left.
        allocation: see the option of `prune`.
        uniform: corresponding widths of repeated blocks have one size.
        rounding: which sizes may be had.
        rounded: whether the user said so; else a table of latencies may know better.
        batch: of a share of the time: the size at which it counts; None for the target's first.
        table: of a share of the time: whose times count; None for this machine's.
        comparable: whether scores of several widths are on one scale.
        compared: of a share of the time: whether one ratio for all widths may be taken in place of
            the allocation; see `rivals`.
    """

    ratio: float
    target: Target | None
    allocation: Way
    uniform: bool
    rounding: Rounding
    rounded: bool = True
    batch: int | None = None
    table: str | None = None
    comparable: bool = False
    compared: bool = False

    def towards(self, step: int, steps: int) -> Wish:
        """What is to go by a step of several, each of which takes the same share of what is left.

        As iterative pruning has it (Frankle and Carbin 2019, section 2).
        """
        if step == steps:
            return self
        part = step / steps
        target = self.target and replace(self.target, share=self.target.share**part)
        return replace(self, ratio=1 - (1 - self.ratio) ** part, target=target)

    @property
    def spares(self) -> str:
        """Why a width that could be cut lost nothing."""
        if self.allocation != "uniform":
            ways = {
                "global": "ranks above the global limit",
                "sensitivity": "is worth more",
                "knapsack": "is worth more than its time",
            }
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
        origin: what the graph was before the first cut; None where this is the first.
    """

    def __init__(  # noqa: PLR0913
        self,
        wish: Wish,
        graph: Graph,
        found: Coupling,
        ctx: Context,
        scores: Scores,
        origin: Origin | None = None,
    ) -> None:
        self.graph, self.found, self.ctx, self.scores = graph, found, ctx, scores
        origin = origin or Origin(graph)
        self.wish = replace(wish, rounding=Rounding(wish.rounding.step, origin.sizes))
        target, widths = wish.target, list(scores)
        self.latency: Latency | None = None
        self.costs: Costs | Latency | None = None
        if target is not None and target.option == "latency":
            self.latency = Latency(graph, found, widths, ctx, wish.batch, wish.table, origin.graph)
            self.costs = self.latency
            step = self.latency.step()
            if not wish.rounded and step > 1:
                self.wish = replace(wish, rounding=Rounding(step, origin.sizes))
        elif target is not None:
            self.costs = Costs(graph, found, target, ctx, origin.graph)
        self.alike = by_block(graph, widths) if wish.uniform else each_alone(widths)
        self.curves: dict[Alike, Curve] = {}
        self.sizes: Sizes = {}
        self.met: Met | None = None

    def require(self, target: Target | None) -> None:
        """See to it that a target can be met.

        Raises:
            CompresscError: CC102 where even the smallest sizes leave more.
        """
        if target is None or self.costs is None:
            return
        smallest = Uniform(self.alike, self.wish.rounding).at(MOST)
        least = self.costs.left(smallest)
        if least > target.share and target.off(least) > WITHIN:
            raise unreachable(target, least)

    def kept(self, refused: dict[Axis, str]) -> dict[Width, Tensor]:
        """Width -> ascending indices that stay; what does not hold enters `refused`.

        Raises:
            CompresscError: CC102 where a target cannot be met.
        """
        held: dict[Width, Tensor] = {}
        for _ in range(ROUNDS):
            self.sizes = self._sizes(self._free(refused), refused)
            held = self.held(self.sizes, refused)
            lost = len(held) < sum(map(len, self.sizes))
            if not lost or not (self.costs or self.wish.uniform):
                break
        if self.curves:
            record(self.curves, self.sizes, self.ctx)
        return held

    def held(self, sizes: Sizes, refused: dict[Axis, str]) -> dict[Width, Tensor]:
        """Of cuts to some sizes those that are proved: the best indices of each width."""
        return prove(self.graph, self.found, chosen(sizes, self.scores), refused, self.ctx)

    def tell(self, left: Mapping[str, float]) -> None:
        """A note where a target was missed, or a ratio that no width can lose.

        Args:
            left: shares of `parameters`, `macs` and `bytes`.
        """
        target = self.wish.target
        if target is None:
            if self.wish.ratio > 1 - 1 / LEAST:
                text = f"ratio={self.wish.ratio:g} would empty widths: a tenth of each stays"
                self.ctx.note(self.graph.name, text)
            return
        if self.latency is not None:
            assert self.met is not None
            self._tell_latency(target, self.latency, self.met)
            got = self.met.left
        else:
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

    def _tell_latency(self, target: Target, latency: Latency, met: Met) -> None:
        """Whose time, what was foretold and what was measured."""
        before, predicted = latency.times.whole / latency.share, met.predicted
        text = f"{target.option}={target.share:g}: {before * predicted:.3g} of {before:.3g} ms "
        text += f"({predicted:.1%}) predicted"
        said = "not measured here" if met.measured is None else f"{met.measured:.1%} measured"
        for op, reason in latency.times.refused.items():
            why = f"{RUNTIME} does not run it by itself ({reason})"
            self.ctx.note(op, f"its time counts as fixed: {why}")
        fixed = (*latency.plan.layers.fixed, *latency.times.refused)
        if fixed:
            said += f"; the time of {len(fixed)} ops counts as fixed, {fixed[0]} first"
        self.ctx.note(self.graph.name, f"{text}, {said}; on {latency.where}")
        self.ctx.record(
            "latency",
            {
                "device": latency.table.machine,
                "runtime": f"{latency.table.runtime} {latency.table.runtime_version}",
                "threads": latency.table.threads,
                "batch": latency.batch,
                "before_ms": before,
                "predicted": predicted,
                "measured": met.measured,
                "rows measured": latency.measured_rows,
                "step": latency.step(),
            },
        )

    def _sizes(self, alike: list[Alike], refused: dict[Axis, str]) -> Sizes:
        target = self.wish.target
        if target is None or self.costs is None:
            return self._allocation(alike).at(self.wish.ratio)
        if self.latency is None:
            return meet(self._allocation(alike), target, self.costs)
        if self.wish.allocation in ("knapsack", "sensitivity"):
            cut_to = self._knapsack(alike, refused, self.latency)
        else:
            cut_to = path_of(self._allocation(alike), target, self.latency)
        self.met = meet_latency(target, self.latency, cut_to)
        return self.met.sizes

    def _knapsack(
        self, alike: list[Alike], refused: dict[Axis, str], latency: Latency
    ) -> Callable[[float], Sizes]:
        """Over the widths whose cut pays; the others enter `refused`."""
        unpaid = latency.unpaid(alike)
        for kind in unpaid:
            for width in kind:
                refused[width.axis] = refused.get(width.axis) or UNPAID
        paid = [kind for kind in alike if kind not in unpaid]
        if self.wish.allocation == "sensitivity" and not self.curves:
            trial = Uniform(paid, self.wish.rounding)
            self.curves = curves(self.graph, self.found, trial, self.scores, self.ctx)
        rounding, comparable = self.wish.rounding, self.wish.comparable
        return knapsack_of(paid, rounding, latency, self.scores, comparable, self.curves)

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
