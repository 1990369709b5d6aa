"""Meeting a share of the time: predict, measure, put right by the ratio, and again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from compressc_prune.alike import Alike
from compressc_prune.allocation import Allocation, Rounding, Scores, Sizes
from compressc_prune.knapsack import Knapsack, importance_lost
from compressc_prune.latency import Latency
from compressc_prune.sensitivity import Curve
from compressc_prune.targets import MOST, WITHIN, Target, meet, unreachable

#: Cuts that are measured at the most, and how near one is near enough.
TRIES, NEAR = 5, 0.01


#: The share of the time that is asked for to see what the smallest sizes leave.
LEAST = 1e-3


@dataclass(frozen=True)
class Met:
    """What came of it.

    Attributes:
        sizes: that are chosen.
        predicted: the share of the time that they leave, by the table.
        measured: that share, measured; None where the table is of another machine.
    """

    sizes: Sizes
    predicted: float
    measured: float | None

    @property
    def left(self) -> float:
        """The share that counts."""
        return self.predicted if self.measured is None else self.measured


def meet_latency(target: Target, latency: Latency, cut_to: Callable[[float], Sizes]) -> Met:
    """The sizes that come nearest to a share of the time.

    Args:
        target: the share.
        latency: predicts, and measures where the table is of this machine.
        cut_to: sizes for a predicted share.

    Raises:
        CompresscError: CC102 where even the smallest sizes leave more.
    """
    aim, tries, aims = target.share, list[Met](), dict[float, float]()
    for number in range(TRIES):
        sizes = cut_to(aim)
        if any(one.sizes == sizes for one in tries):
            break
        predicted = latency.left(sizes)
        if number == 0 and predicted > target.share * (1 + WITHIN):
            least = latency.left(cut_to(LEAST))
            if least > target.share * (1 + WITHIN):
                raise unreachable(target, least)
        tries.append(Met(sizes, predicted, latency.measured(sizes) if latency.is_here else None))
        if target.off(tries[-1].left) <= NEAR or not latency.is_here:
            break
        aims[aim] = tries[-1].left
        aim = _next_aim(aims, target.share)
    return min(tries, key=lambda one: target.off(one.left))


def _next_aim(aims: Mapping[float, float], share: float) -> float:
    """Between the nearest aims on both sides; by the ratio where all are on one side.

    Args:
        aims: predicted share -> measured share.
        share: that is wanted.
    """
    above = min(((got, aim) for aim, got in aims.items() if got >= share), default=None)
    below = max(((got, aim) for aim, got in aims.items() if got < share), default=None)
    if above is not None and below is not None:
        part = (share - below[0]) / (above[0] - below[0])
        return below[1] + part * (above[1] - below[1])
    aim, got = list(aims.items())[-1]
    return min(max(aim * share / got, aim / 2), (1 + aim) / 2)


def knapsack_of(  # noqa: PLR0913  (what is cut, and what is known of it)
    alike: Sequence[Alike],
    rounding: Rounding,
    latency: Latency,
    scores: Scores,
    comparable: bool,
    curves: dict[Alike, Curve],
) -> Callable[[float], Sizes]:
    """Sizes for a predicted share of the time, by importance, or by curves of measured losses.

    Args:
        alike, rounding: see `Allocation`.
        latency: predicts.
        scores: of the indices of widths.
        comparable: whether those of several widths are on one scale.
        curves: what cutting each width loses, where that was measured.
    """
    lost = importance_lost(alike, scores, comparable)
    if curves:
        lost = lambda kind, size: curves[kind].at(1 - size / kind[0].size)  # noqa: E731
    knapsack = Knapsack(alike, rounding, lost, latency.times)
    return lambda share: knapsack.cut_to(share / latency.share)


def path_of(allocation: Allocation, target: Target, latency: Latency) -> Callable[[float], Sizes]:
    """Sizes for a predicted share of the time, on the path of an allocation; its end below that."""
    least = latency.left(allocation.at(MOST))
    return lambda share: meet(allocation, Target(target.option, max(share, least)), latency)
