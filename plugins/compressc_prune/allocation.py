"""How much of each width goes when a share of all is to go: one path from nothing to everything."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch

from compressc.analysis import Axis, Width
from compressc_prune.alike import Alike

#: Widths that are alike -> indices of each that stay.
Sizes = dict[Alike, int]
Scores = Mapping[Width, torch.Tensor]

#: Of every width this share stays at the least, and one index.
LEAST = 10


class Rounding:
    """Sizes that a width may have.

    Args:
        step: channels stay in multiples of this; heads and head widths in any number.
        whole: leaf axis of a width that was cut before -> indices that it had.
    """

    def __init__(self, step: int, whole: Mapping[Axis, int] | None = None) -> None:
        self.step, self._whole = step, whole or {}

    def whole(self, width: Width) -> int:
        """Indices that a width had before the first cut."""
        return self._whole.get(width.axis, width.size)

    def step_of(self, width: Width) -> int:
        """Multiples of what it stays in: a narrow width is not rounded."""
        return 1 if width.axis.role or self.whole(width) < 2 * self.step else self.step

    def size(self, wanted: int, width: Width) -> int:
        """A legal number of indices near `wanted`, at or above it: at least a tenth."""
        least, step = max(1, self.whole(width) // LEAST), self.step_of(width)
        return min(width.size, max(step, -(-max(wanted, least) // step) * step))


class Allocation(ABC):
    """Sizes for any share of all indices that is to go, those that went before among them.

    Args:
        alike: what gets one size each.
        rounding: which sizes may be had.
    """

    def __init__(self, alike: Sequence[Alike], rounding: Rounding) -> None:
        self.alike, self.rounding = alike, rounding

    def at(self, share: float) -> Sizes:
        """What stays; widths that lose nothing are left out."""
        wanted = self.wanted(share).items()
        sizes = {kind: self.rounding.size(count, kind[0]) for kind, count in wanted}
        return {kind: size for kind, size in sizes.items() if size < kind[0].size}

    def indices(self) -> int:
        """How many there were of all widths before the first cut."""
        return sum(self.rounding.whole(width) for kind in self.alike for width in kind)

    @abstractmethod
    def wanted(self, share: float) -> Mapping[Alike, int]:
        """How many indices of each should stay, before rounding; falls as the share grows."""


class Uniform(Allocation):
    """The same share of every width."""

    def wanted(self, share: float) -> Mapping[Alike, int]:
        """See `Allocation`."""
        sizes = {kind: self.rounding.whole(kind[0]) for kind in self.alike}
        return {kind: size - int(size * share) for kind, size in sizes.items()}


class Global(Allocation):
    """The indices of all widths ranked together: important widths keep more.

    Widths that are alike have the mean of their scores, the best indices of each together.
    """

    def __init__(self, alike: Sequence[Alike], rounding: Rounding, scores: Scores) -> None:
        super().__init__(alike, rounding)
        self.ranked = {
            kind: torch.stack([scores[width].sort().values for width in kind]).mean(0)
            for kind in alike
        }
        everything = [rank for kind, rank in self.ranked.items() for _ in kind]
        self.all = torch.cat(everything).sort().values if everything else torch.zeros(0)

    def wanted(self, share: float) -> Mapping[Alike, int]:
        """See `Allocation`."""
        whole = self.indices()
        going = int(whole * share) - (whole - len(self.all))
        if not len(self.all) or going < 0:
            return {}
        limit = float(self.all[min(len(self.all) - 1, going)])
        return {kind: int((rank > limit).sum()) for kind, rank in self.ranked.items()}


def chosen(sizes: Sizes, scores: Scores) -> dict[Width, torch.Tensor]:
    """Width -> ascending indices that stay: the best of each."""
    return {
        width: scores[width].topk(size).indices.sort().values
        for kind, size in sizes.items()
        for width in kind
    }
