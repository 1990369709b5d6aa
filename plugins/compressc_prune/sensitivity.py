"""Allocation by measured sensitivity: what is lost when each width is cut alone, at a few ratios.

Widths then go step by step in the order of what a step loses for what it saves. With convex curves
that order is the best one there is, were the losses of several widths to add up. Source: Li et al.
2017 (arXiv 1608.08710, section 3.2: sensitivity of single layers); curves in place of thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from compressc.analysis import Coupling
from compressc.ir import Graph, lower
from compressc.pipeline import Context, lower_hull
from compressc.tasks import task_of
from compressc.training import scaled_error
from compressc_prune.alike import Alike
from compressc_prune.allocation import Allocation, Rounding, Scores, chosen
from compressc_prune.measured import first_batches
from compressc_prune.trials import cut_copy
from compressc_prune.verdicts import what

#: Shares of a width that are cut alone, and samples that the loss is measured on.
SHARES, SAMPLES, BATCH = (0.25, 0.5, 0.75), 256, 64
#: Steps of a width on its curve.
STEPS = 16
#: A loss that no share adds to counts as this part of the largest one, so that steps have an order.
LEAST = 1e-3
#: What an infinite loss counts as, or one that is no number.
HUGE = 1e9


@dataclass(frozen=True)
class Curve:
    """What cutting widths that are alike loses.

    Attributes:
        shares: of their indices that go, ascending from 0.
        losses: rise of the loss at each, convex and never falling.
        measured: as it was measured.
    """

    shares: tuple[float, ...]
    losses: tuple[float, ...]
    measured: tuple[float, ...]

    def at(self, share: float) -> float:
        """The loss at any share; beyond the last one the curve goes on straight."""
        points = list(zip(self.shares, self.losses, strict=True))
        for (a, low), (b, high) in pairwise(points):
            if share <= b or b == self.shares[-1]:
                return low + (high - low) * (share - a) / (b - a)
        return 0.0


class Sensitivity(Allocation):
    """Steps of all widths, the cheapest loss for what is saved first.

    Args:
        alike, rounding: see `Allocation`.
        found: what cutting each of them loses.
        saves: what each would save, were all of it to go.
    """

    def __init__(
        self,
        alike: Sequence[Alike],
        rounding: Rounding,
        found: Mapping[Alike, Curve],
        saves: Mapping[Alike, float],
    ) -> None:
        super().__init__(alike, rounding)
        steps = []
        for place, kind in enumerate(alike):
            for step in range(1, STEPS):
                low, high = (found[kind].at(n / STEPS) for n in (step - 1, step))
                steps.append(((high - low) / max(saves[kind], 1e-12), place))
        self.order = [alike[place] for _, place in sorted(steps)]

    def wanted(self, share: float) -> Mapping[Alike, int]:
        """Walks the steps until so many of all indices are gone."""
        total, left = self.indices(), sum(kind[0].size * len(kind) for kind in self.alike)
        gone, own = float(total - left), dict.fromkeys(self.alike, 0)
        for kind in self.order:
            if gone >= share * total:
                break
            gone += kind[0].size * len(kind) / STEPS
            own[kind] += 1
        return {kind: kind[0].size - kind[0].size * step // STEPS for kind, step in own.items()}


def curves(
    graph: Graph, found: Coupling, trial: Allocation, scores: Scores, ctx: Context
) -> dict[Alike, Curve]:
    """Measure what cutting each kind of width alone loses.

    Args:
        graph: not changed.
        found: its coupling.
        trial: what is cut together, and which sizes may be had.
        scores: which indices go first.
        ctx: has calibration data.
    """
    loss = loss_beside(graph, ctx)
    whole = loss(graph)
    measured: dict[Alike, dict[float, float]] = {}
    for number, kind in enumerate(trial.alike):
        ctx.progress("measuring sensitivity", number, len(trial.alike))
        points: dict[float, float] = {}
        for size in sizes_of(kind, trial.rounding):
            with cut_copy(graph, found, chosen({kind: size}, scores)) as copy:
                points[1 - size / kind[0].size] = loss(copy) - whole
        measured[kind] = points
    most = max((max(p.values(), default=0.0) for p in measured.values()), default=0.0)
    return {kind: _curve(points, LEAST * max(most, 1e-9)) for kind, points in measured.items()}


def sizes_of(kind: Alike, rounding: Rounding) -> list[int]:
    """The sizes that a width is tried at, the largest first; none where it cannot be cut."""
    whole = kind[0].size
    sizes = (rounding.size(whole - int(whole * share), kind[0]) for share in SHARES)
    return [size for size in dict.fromkeys(sizes) if size < whole]


def record(found: Mapping[Alike, Curve], sizes: Mapping[Alike, int], ctx: Context) -> None:
    """Put the curves on record, and what was made of them, so that a report can draw them."""
    rows: list[dict[str, Any]] = []
    for kind, curve in found.items():
        rows.append(
            {
                "made by": list(dict.fromkeys(name for width in kind for name in width.producers)),
                "what": what(kind[0]),
                "size": kind[0].size,
                "shares": list(curve.shares[1:]),
                "loss": list(curve.measured[1:]),
                "kept": sizes.get(kind, kind[0].size),
            }
        )
    ctx.record("sensitivity", rows)


def _curve(points: Mapping[float, float], least: float) -> Curve:
    """The largest convex curve below the points; an infinite loss counts as a very large one."""
    shares = (0.0, *points)
    measured = (0.0, *points.values())
    if len(shares) == 1:  # it cannot lose anything
        return Curve((0.0, 1.0), (0.0, least), (0.0,))
    raised = [
        max(loss if abs(loss) < HUGE else HUGE, 0.0) + least * share**2
        for share, loss in zip(shares, measured, strict=True)
    ]
    hull = lower_hull(zip(shares, raised, strict=True), lambda point: point)
    return Curve(tuple(x for x, _ in hull), tuple(y for _, y in hull), measured)


def loss_beside(graph: Graph, ctx: Context, *, blind: bool = False) -> Callable[[Graph], float]:
    """The task's loss on calibration data; without labels the distance from the uncut answers.

    Args:
        graph: that others are cut from.
        ctx: of the pass.
        blind: the distance in any case: mean squared error over the variance of the answers.
    """
    samples, task = ctx.require_data("prune(allocation=sensitivity)").calibration, task_of(ctx)
    batches = list(first_batches(samples, BATCH, SAMPLES))
    targets = [task.targets(batch.inputs, batch.labels) for batch in batches]

    @torch.no_grad()
    def values(of: Graph) -> list[list[Tensor]]:
        module = lower(of, also=task.values_in(of))
        return [module(*batch.inputs)[1] for batch in batches]

    uncut = values(graph)

    def loss(of: Graph) -> float:
        total = count = 0.0
        for batch, target, ours, theirs in zip(batches, targets, values(of), uncut, strict=True):
            far = blind or target is None
            one = scaled_error(ours[0], theirs[0]) if far else task.loss(ours, target)
            total, count = total + float(one) * len(batch), count + len(batch)
        return total / max(1.0, count)

    return loss


def saved(
    alike: Sequence[Alike], left: Callable[[dict[Alike, int]], float] | None
) -> dict[Alike, float]:
    """What the whole of each would save: of a target's cost, or in indices where there is none.

    Args:
        alike: what is cut together.
        left: of a target: the share of the cost that some sizes leave.
    """
    if left is None:
        return {kind: float(kind[0].size * len(kind)) for kind in alike}
    return {kind: 2 * (1 - left({kind: max(1, kind[0].size // 2)})) for kind in alike}
