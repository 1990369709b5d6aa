"""Where a training loop gets its batches from."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, pairwise
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from compressc import processes
from compressc.data.order import order
from compressc.errors import CompresscError
from compressc.pipeline import Batch, Request, Samples, View

#: Batches whose positions are looked up together.
_BLOCK = 256
#: Numbers of the inputs that go through a model at a time without gradients, and samples at the
#: least.
NUMBERS, LEAST_ROWS = 1 << 22, 32

Batch_co = TypeVar("Batch_co", covariant=True)


class Batches(Protocol[Batch_co]):
    """A source of one epoch after another."""

    def __len__(self) -> int:
        """Batches of an epoch, at least 1."""

    def epoch(self, seed: int, number: int, start: int = 0) -> Iterator[Batch_co]:
        """The batches of an epoch from position `start` on: a function of its arguments alone."""


@dataclass(frozen=True)
class Drawn:
    """A batch of a source, and where it comes from.

    Attributes:
        positions: of its samples, int64 `[b]`.
        view: of them; None for samples as they are.
        samples: inputs and labels, on the device of the model.
        weight: of its mean loss beside those of the other processes, 1 on average.
        progress: share of the run that is over when it is learned from, 0 to 1; one half for what
            is no step of a run.
    """

    positions: Tensor
    view: View | None
    samples: Batch
    weight: float = 1.0
    progress: float = 0.5


def drawn(samples: Samples, requests: Iterable[Request], device: torch.device) -> Iterator[Drawn]:
    """The batches that are asked for, one after another."""
    asked: deque[Request] = deque()

    def told() -> Iterator[Request]:  # a source with workers reads ahead
        for request in requests:
            asked.append(request)
            yield request

    for batch in samples.stream(told()):
        yield Drawn(*asked.popleft(), batch.to(device))


class SampleBatches:
    """Samples of a source, shuffled anew each epoch, in the view of the epoch.

    An epoch sees every sample once, in batches whose sizes differ by at most one, as those of
    `TensorBatches` do. Of several processes each has its part of every batch.

    Args:
        samples: at least one.
        batch_size: samples in a batch, at least 1; a batch may hold half as many more.
        device: where they are wanted.
        views: of each sample, epoch after epoch; 0 for a new one in each epoch.
    """

    def __init__(
        self, samples: Samples, batch_size: int, device: torch.device, views: int = 0
    ) -> None:
        self.samples, self.batch_size, self.device = samples, batch_size, device
        self.views = views
        self._next: tuple[int, int, int] | None = None  # what the stream has next
        self._stream: Iterator[Drawn] = iter(())
        smallest = len(samples) // len(self)
        if smallest < processes.world():
            raise CompresscError(
                "CC102",
                "a batch must have a sample for each process",
                got=f"{smallest} for {processes.world()} processes",
            )

    def __len__(self) -> int:
        """Batches of an epoch: n / batch_size, rounded."""
        return max(1, round(len(self.samples) / self.batch_size))

    def epoch(self, seed: int, number: int, start: int = 0) -> Iterator[Drawn]:
        """The batches of an epoch from position `start` on.

        One stream reads ahead over the epochs, as long as each begins where the last one ended.
        """
        if self._next != (seed, number, start):
            plan = _Plan(len(self.samples), len(self), self.views)
            requests = plan.requests(seed, number, start)
            self._stream = drawn(self.samples, requests, self.device)
        for position in range(start, len(self)):
            self._next = None
            batch = self._weighted(next(self._stream), position)
            is_last = position + 1 == len(self)
            self._next = (seed, number + 1, 0) if is_last else (seed, number, position + 1)
            yield batch

    def _weighted(self, batch: Drawn, position: int) -> Drawn:
        if processes.world() == 1:
            return batch
        total, parts = len(self.samples), len(self)
        whole = _end(total, parts, position + 1) - _end(total, parts, position)
        return replace(batch, weight=len(batch.positions) * processes.world() / whole)


@dataclass(frozen=True)
class _Plan:
    """What a stream reads. It does not hold who asks: a stream that did would outlive it, and with
    the stream the processes that read ahead for it."""

    total: int
    parts: int
    views: int

    def requests(self, seed: int, number: int, start: int) -> Iterator[Request]:
        """What the stream is to read, from there on without an end."""
        for epoch in count(number):
            view = View(seed, epoch % self.views if self.views else epoch)
            for index in self.positions(seed, epoch, start if epoch == number else 0):
                yield index, view

    def positions(self, seed: int, epoch: int, start: int) -> Iterator[Tensor]:
        """Of each batch of an epoch from `start` on."""
        total, parts = self.total, self.parts
        for first in range(start, parts, _BLOCK):
            last = min(first + _BLOCK, parts)
            ends = [_end(total, parts, part) for part in range(first, last + 1)]
            block = order(total, seed, epoch, ends[0], ends[-1])
            sizes = [after - before for before, after in pairwise(ends)]
            for batch in torch.split(block, sizes):
                yield batch.tensor_split(processes.world())[processes.rank()]


def _end(total: int, parts: int, part: int) -> int:
    """Where a part begins, and the one before it ends: as `tensor_split` has it."""
    return part * (total // parts) + min(part, total % parts)


class TensorBatches:
    """Rows of tensors, shuffled anew each epoch.

    An epoch sees every row once, in batches whose sizes differ by at most one: a small last batch
    would give batch norm a noisy estimate, and dropping it would lose rows.

    Args:
        tensors: `[n, ...]` each, on one device; all with the same n >= 1.
        batch_size: rows in a batch, at least 1; a batch may hold half as many more.
    """

    def __init__(self, tensors: Sequence[Tensor], batch_size: int) -> None:
        rows = {len(tensor) for tensor in tensors}
        if len(rows) != 1 or rows == {0} or batch_size < 1:
            raise ValueError(f"tensors of one length, at least 1, and a batch size: {rows}")
        self.tensors = tuple(tensors)
        self.rows = rows.pop()
        self.batch_size = batch_size

    def __len__(self) -> int:
        """Batches of an epoch: n / batch_size, rounded."""
        return max(1, round(self.rows / self.batch_size))

    def epoch(self, seed: int, number: int, start: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """Batches as tuples, `[rows, ...]` of each tensor."""
        positions = order(self.rows, seed, number).to(self.tensors[0].device)
        for index in positions.tensor_split(len(self))[start:]:
            yield tuple(tensor[index] for tensor in self.tensors)


def batched(tensors: Sequence[Tensor], size: int) -> Iterator[tuple[Tensor, ...]]:
    """Views of the tensors `[n, ...]` in order, `size` rows at a time; the last may have fewer."""
    for start in range(0, len(tensors[0]), size):
        yield tuple(tensor[start : start + size] for tensor in tensors)


@dataclass(frozen=True)
class Spread:
    """Inputs of samples that are spread evenly over a source, in order, read anew at each look.

    Iterating gives inputs `[k, ...]` of some samples at a time, in parts whose sizes differ by at
    most one; none where the source is empty.

    Attributes:
        samples: of which these are.
        most: how many at most.
        device: where they are wanted.
    """

    samples: Samples
    most: int
    device: torch.device

    def __len__(self) -> int:
        """How many samples."""
        return min(len(self.samples), self.most)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """One part after another."""
        if not len(self):
            return
        numbers = sum(x.numel() for x in self.samples.take(1).inputs)
        parts = math.ceil(len(self) / max(LEAST_ROWS, NUMBERS // max(1, numbers)))
        positions = torch.arange(len(self)) * len(self.samples) // len(self)
        for part in positions.tensor_split(parts):
            yield self.samples.select(part).to(self.device).inputs
