"""Ranges of values on calibration data: read batch by batch, the same for any size of a batch.

What is kept of a sample are the least and the largest number of each value. A range is the mean
over lots of 32 samples of the extremes in each: outliers of single samples count little, and how
many samples are run at once counts nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any, Literal

import torch
from torch import Tensor, fx

from compressc.errors import CompresscError
from compressc.ir import Graph, Op, lower
from compressc.ir.quantized import QUANTIZE
from compressc.pipeline import Context, Samples

#: Samples whose extremes are taken together.
LOT = 32
#: Lots after which ranges may count as settled, and samples that are looked at at most.
FIRST, MOST = 4, 1024
#: Ranges have settled where two halves of the samples differ by less, on average.
SETTLED = 0.02
#: The golden ratio: its multiples, by their fractions, are spread evenly, however many are taken.
_GOLDEN = 0.6180339887498949

Inputs = tuple[Tensor, ...]
#: Told how many batches of how many are through.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Calibration(Sequence[Inputs]):
    """Batches of one size, read when they are asked for: one is in memory at a time.

    Attributes:
        samples: of the calibration part.
        positions: of those that are looked at, in order; a multiple of the size.
        size: of a batch.
        settles: whether fewer will do where ranges have settled.
    """

    samples: Samples
    positions: Tensor
    size: int
    settles: bool = False

    def __len__(self) -> int:
        return len(self.positions) // self.size

    def __getitem__(self, index: Any) -> Any:
        """A batch, or some of them."""
        if isinstance(index, slice):
            chosen = self.positions.reshape(-1, self.size)[index].flatten()
            return Calibration(self.samples, chosen, self.size)
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        start = range(len(self))[index] * self.size
        return self.samples.select(self.positions[start : start + self.size]).inputs

    def first(self, count: int) -> Inputs:
        """The first samples, of one length."""
        return self.samples.select(self.positions[:count]).inputs

    def of_one_length(self) -> list[Inputs]:
        """All batches in memory, as long as the longest sample."""
        whole = self.first(len(self.positions))
        return [
            tuple(x[start : start + self.size] for x in whole)
            for start in range(0, len(self.positions), self.size)
        ]


def calibration(samples: Samples, wanted: int | Literal["auto"], batch: int) -> Calibration:
    """The batches to look at.

    Args:
        samples: of the calibration part.
        wanted: the first so many; `auto`: spread over all of them, until ranges settle.
        batch: size of a batch.

    Raises:
        CompresscError: CC105 where there are no samples.
    """
    total = len(samples)
    if not total:
        raise CompresscError("CC105", "pass 'quant' needs calibration samples", got="none")
    positions = spread_order(total)[:MOST] if wanted == "auto" else torch.arange(total)[:wanted]
    size = min(batch, len(positions))
    whole = len(positions) - len(positions) % size
    return Calibration(samples, positions[:whole], size, settles=wanted == "auto")


def spread_order(total: int) -> Tensor:
    """All positions, so that the first few, however many, lie evenly among all."""
    fractions = (torch.arange(total, dtype=torch.float64) * _GOLDEN).frac()
    return torch.argsort(fractions, stable=True)


@dataclass(frozen=True)
class Ranges:
    """What was observed of some values.

    Attributes:
        names: of the values.
        extremes: f32[samples, values, 2], the least and the largest number in each sample.
    """

    names: Sequence[str]
    extremes: Tensor

    @property
    def samples(self) -> int:
        """How many were looked at."""
        return len(self.extremes)

    def of(self, name: str) -> Observed:
        """The range of a value."""
        return self._each[name]

    @cached_property
    def _each(self) -> dict[str, Observed]:
        pairs = zip(self.names, self._means(self.extremes).tolist(), strict=True)
        return {name: Observed(*row) for name, row in pairs}

    def spreads(self) -> Tensor:
        """Of each value, how far its ranges on two disjoint halves differ, in widths of it.

        Empty where one sample is all.
        """
        lots = torch.split(self.extremes, LOT if self.samples >= 2 * LOT else -(-self.samples // 2))
        if len(lots) < 2:
            return torch.zeros(0)
        halves = [self._means(torch.cat(lots[start::2])) for start in (0, 1)]
        whole = self._means(self.extremes)
        width = torch.maximum(whole[:, 1].clamp(min=0) - whole[:, 0].clamp(max=0), _tiny(whole))
        return (halves[0] - halves[1])[:, :2].abs().amax(1) / width

    def _means(self, extremes: Tensor) -> Tensor:
        """f32[values, 3]: low, high, largest."""
        lots = torch.split(extremes, LOT)
        if len(lots) > 1 and len(lots[-1]) < LOT:  # what is left over is no lot
            lots = lots[:-1]
        each = []
        for lot in lots:
            low, high = lot[..., 0].amin(0), lot[..., 1].amax(0)
            each.append(torch.stack([low, high, torch.maximum(-low, high)], -1))
        return torch.stack(each).mean(0)


def _tiny(values: Tensor) -> Tensor:
    return torch.full_like(values[:, 0], torch.finfo(values.dtype).tiny)


@dataclass(frozen=True)
class Observed:
    """The range of a value: means over lots of the least, the largest, and the largest absolute."""

    low: float
    high: float
    largest: float

    def together(self, other: Observed) -> Observed:
        """The range that holds both."""
        largest = max(self.largest, other.largest)
        return Observed(min(self.low, other.low), max(self.high, other.high), largest)

    def form(self, least: int, most: int, *, symmetric: bool) -> tuple[float, int] | None:
        """Scale and zero point of integers that hold the range and zero; None: it is not finite."""
        low, high, zero = min(self.low, 0.0), max(self.high, 0.0), 0
        if symmetric:
            scale = (self.largest if least < 0 else high) / most
        else:
            scale = (high - low) / (most - least)
        if not 0 < scale < math.inf:
            return None
        if not symmetric:  # the zero point is an integer, and both ends must be held still
            zero = round(least - low / scale)
            ends = ((high, most - zero), (-low, zero - least))
            scale = max(end / steps for end, steps in ends if steps)
        return scale, zero


def read_by_quantizers(graph: Graph, before: Graph) -> list[str]:
    """Values that are quantized and that were there before."""
    values = (op.inputs[0] for op in graph if op.kind == QUANTIZE)
    return [name for name in dict.fromkeys(values) if name in before]


def set_ranges(graph: Graph, ranges: Ranges) -> None:
    """Give quantizers the ranges that were observed in front of them.

    Those that had one form in common, as both sides of a sum have, keep one: the union.

    Args:
        graph: edited in place.
        ranges: of what quantizers read; others stay as they are.
    """
    together: dict[tuple[Any, ...], list[Op]] = {}
    known = set(ranges.names)
    for op in graph:
        if op.kind == QUANTIZE and op.inputs[0] in known:
            together.setdefault(op.args[1:], []).append(op)
    for (_, zero, least, most, dtype), ops in together.items():
        both = reduce(Observed.together, (ranges.of(op.inputs[0]) for op in ops))
        found = both.form(least, most, symmetric=zero == 0 and least < 0)
        for op in ops if found is not None else ():
            for user in (op, *graph.users(op.name)):
                graph.set_inputs(user.name, (user.args[0], *(found or ()), least, most, dtype))


@torch.no_grad()
def observe_ranges(
    graph: Graph,
    names: Sequence[str],
    batches: Sequence[Inputs],
    progress: Progress = lambda done, total: None,
) -> Ranges:
    """Look at values while batches run, each value as it is computed; none is kept.

    Args:
        graph: what runs.
        names: of the values.
        batches: of one size.
        progress: told how many batches of how many are through.

    Raises:
        CompresscError: CC301 for samples that are all the same.
    """
    watch = _Watch(graph, names)
    settles = isinstance(batches, Calibration) and batches.settles
    check = _Check() if isinstance(batches, Calibration) else None
    found: list[Tensor] = []
    for done, batch in enumerate(batches):
        progress(done, len(batches))
        if check is not None:
            check.look(batch)
        found.append(watch.extremes(batch))
        count = sum(map(len, found))
        if settles and count >= FIRST * LOT and count % (2 * LOT) == 0:
            spreads = Ranges(names, torch.cat(found)).spreads()
            if not len(spreads) or float(spreads.mean()) <= SETTLED:
                break
    if check is not None:
        check.end()
    return Ranges(names, torch.cat(found))


class _Watch(fx.Interpreter):
    """Runs a graph and sees the extremes of some values."""

    def __init__(self, graph: Graph, names: Sequence[str]) -> None:
        super().__init__(lower(graph))
        self.names = {name: place for place, name in enumerate(names)}
        self.given = [op.name for op in graph.inputs]
        self._found = torch.zeros(0)

    def extremes(self, batch: Inputs) -> Tensor:
        """f32[samples, values, 2]."""
        self._found = torch.zeros(len(batch[0]), len(self.names), 2)
        for name, value in zip(self.given, batch, strict=True):
            self._see(name, value)
        self.run(*batch)
        return self._found

    def run_node(self, n: fx.Node) -> Any:
        """As ever, with a look at what came out."""
        value = super().run_node(n)
        self._see(n.meta.get("ir_op", ""), value)
        return value

    def _see(self, name: str, value: Any) -> None:
        place = self.names.get(name)
        if place is None or not isinstance(value, Tensor) or not value.numel():
            return
        samples = len(self._found)
        by_sample = value.dim() and value.shape[0] % samples == 0  # heads may be folded in
        rows = value.detach().reshape(samples if by_sample else 1, -1)
        self._found[:, place] = torch.stack(torch.aminmax(rows, dim=1), -1).float()


class _Check:
    """Samples that say nothing of ranges are refused."""

    def __init__(self) -> None:
        self.first: Inputs | None = None
        self.count, self.varies = 0, False

    def look(self, batch: Inputs) -> None:
        """See the next batch."""
        if self.first is None:
            self.first = tuple(value[:1].clone() for value in batch)
        self.count += len(batch[0])
        pairs = zip(batch, self.first, strict=True)
        self.varies = self.varies or any(bool((value != one).any()) for value, one in pairs)

    def end(self) -> None:
        """See that samples differ."""
        if self.count > 1 and not self.varies:
            raise CompresscError(
                "CC301",
                "calibration samples differ from each other",
                got=f"{self.count} samples that are all the same",
                where="pass 'quant'",
                hint="ranges observed on them would fit no other sample",
            )


def tell_ranges(ranges: Ranges, ctx: Context) -> None:
    """How many samples ranges are of, and how far two halves of them differ."""
    spreads = ranges.spreads()
    if not len(spreads) or not len(ranges.names):
        return
    most, place = (float(x) for x in spreads.max(0))
    worst = ranges.names[int(place)]
    mean = float(spreads.mean())
    ctx.record(
        "calibration",
        {
            "samples": ranges.samples,
            "spread": mean,
            "spreads": dict(zip(ranges.names, spreads.tolist(), strict=True)),
        },
    )
    ctx.note(
        "",
        f"ranges of {len(ranges.names)} values on {ranges.samples} samples: two halves of them "
        f"differ by {mean:.1%} of a range on average, {most:.1%} at most (%{worst})",
    )
