"""Sizes for a share of the time: the least importance lost for the time saved.

What one width saves depends on what is left of those beside it: a layer's time is about the product
of what it reads and makes. So the time is taken as a sum over widths only near the sizes that are
had, and the way to the target goes in short stages. Source: Shen et al. 2021 (HALP, arXiv
2110.10811: a knapsack over importance and the latency of layers); Everett's multipliers in place of
its dynamic programme, and stages in place of one linearization.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from compressc.pipeline import Choice, choose
from compressc.probe import Left, Times
from compressc_prune.alike import Alike
from compressc_prune.allocation import Rounding, Scores, Sizes
from compressc_prune.latency import leaves_left

#: A stage saves this share of the time, and takes no more than this share of any width.
STAGE, REACH = 0.07, 0.25
#: What is no further from the share than this part of it is near enough.
NEAR = 0.01
#: Stages at the most.
MOST_STAGES = 400
#: Layers of a width that take no longer than this many times as long, cut less, are cut less.
FREE = 1.001

#: (widths that are alike, their size) -> what is lost.
Lost = Callable[[Alike, int], float]


class Knapsack:
    """Which size each width has for a share of the time.

    Args:
        alike: what gets one size each.
        rounding: which sizes may be had.
        lost: what a size loses.
        times: predicts.
    """

    def __init__(
        self, alike: Sequence[Alike], rounding: Rounding, lost: Lost, times: Times
    ) -> None:
        self.lost, self.times = lost, times
        self.sizes = {kind: _sizes(kind, rounding) for kind in alike}
        self.parts = {kind: times.reading([w.axis for w in kind]) for kind in alike}

    def cut_to(self, share: float) -> Sizes:
        """The sizes that leave about this share of the time, or the nearest to it that exist."""
        at = before = {kind: sizes[0] for kind, sizes in self.sizes.items()}
        for _ in range(MOST_STAGES):
            over = self._left(at) / share
            if over <= 1:
                break
            chosen = self._stage(at, min(STAGE, 1 - 1 / over))
            if chosen == at:
                break
            before, at = at, chosen
        at = self._nearest(before, at, share)
        return {kind: size for kind, size in self._paid(at).items() if size < kind[0].size}

    def _nearest(
        self, before: dict[Alike, int], after: dict[Alike, int], share: float
    ) -> dict[Alike, int]:
        """Of what lies on both sides of a share, and one width from the former, the nearest to it.

        Of several that are near enough, what loses least.
        """
        left = leaves_left(before)
        tried = [before, after]
        for kind, size in before.items():
            tried += [{**before, kind: choice.pick} for choice in self._menu(kind, size, left)[1:]]

        def worth(at: dict[Alike, int]) -> tuple[float, float]:
            off = abs(self._left(at) / share - 1)
            return max(off, NEAR), sum(self.lost(kind, size) for kind, size in at.items())

        return min(tried, key=worth)

    def _left(self, at: Mapping[Alike, int]) -> float:
        return self.times.at(leaves_left(dict(at))) / self.times.whole

    def _stage(self, at: Mapping[Alike, int], saved: float) -> dict[Alike, int]:
        left = leaves_left(dict(at))
        menus = {kind: self._menu(kind, size, left) for kind, size in at.items()}
        now = sum(menu[0].cost for menu in menus.values())
        layers = self.times.layers_at(left)
        chosen = choose(menus, now - saved * layers)
        if chosen is None:  # a stage may be out of reach: as far as it goes
            chosen = {kind: min(menu, key=lambda c: c.cost) for kind, menu in menus.items()}
        return {kind: choice.pick for kind, choice in chosen.items()}

    def _menu(self, kind: Alike, size: int, left: Left) -> list[Choice[int]]:
        """This size and those below it within reach, the next one at least."""
        below = [own for own in self.sizes[kind] if own < size]
        near = [own for own in below if own >= size * (1 - REACH)] or below[:1]
        return [
            Choice(
                own, self.parts[kind].at({**left, **leaves_left({kind: own})}), self.lost(kind, own)
            )
            for own in (size, *near)
        ]

    def _paid(self, at: dict[Alike, int]) -> dict[Alike, int]:
        """Without cuts that save nothing where the others are as they are."""
        for kind in list(at):
            left = leaves_left(at)
            now = self.parts[kind].at(left) * FREE
            free = (
                own
                for own in self.sizes[kind]  # the largest first
                if self.parts[kind].at({**left, **leaves_left({kind: own})}) <= now
            )
            at[kind] = max(at[kind], next(free, 0))
        return at


def _sizes(kind: Alike, rounding: Rounding) -> list[int]:
    """All sizes that a width may have, the largest first."""
    width = kind[0]
    return sorted({rounding.size(size, width) for size in range(1, width.size + 1)}, reverse=True)


def importance_lost(alike: Sequence[Alike], scores: Scores, comparable: bool) -> Lost:
    """What a size loses, by scores of indices.

    Where scores of several widths are on one scale, the sum of those that go, as in HALP. Else what
    goes over what stays: the noise that a cut makes in what a width carries, which has no scale and
    rises without bound as a width is emptied.
    """
    sums: dict[Alike, list[float]] = {}
    for kind in alike:
        ranked = torch.stack([scores[width].double().sort().values for width in kind]).sum(0)
        sums[kind] = [0.0, *ranked.cumsum(0).tolist()]

    def lost(kind: Alike, size: int) -> float:
        every = sums[kind]
        gone = every[len(every) - 1 - size]
        return gone if comparable else len(kind) * gone / max(every[-1] - gone, 1e-12)

    return lost
