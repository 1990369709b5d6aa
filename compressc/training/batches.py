"""Where a training loop gets its batches from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

from torch import Tensor

from compressc.data.order import order

Batch_co = TypeVar("Batch_co", covariant=True)


class Batches(Protocol[Batch_co]):
    """A source of one epoch after another."""

    def __len__(self) -> int:
        """Batches of an epoch, at least 1."""

    def epoch(self, seed: int, number: int, start: int = 0) -> Iterator[Batch_co]:
        """The batches of an epoch from position `start` on: a function of its arguments alone."""


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
