"""`Source`: what every part of a data set is; and a part of a part, without a copy."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from compressc.pipeline import Request, View

if TYPE_CHECKING:
    from compressc.data.split import Split


#: Samples that tell one change from another.
_SAMPLED = 16

Inputs = tuple[Tensor, ...]
Change = Callable[[Inputs], Inputs]


class Digest(Protocol):
    """A hash that is fed piece by piece."""

    def update(self, data: Any, /) -> None:
        """Feed bytes."""


class Source(ABC):
    """Samples that are read when they are asked for; a subclass says how many, and reads them."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    def hashed_whole(self) -> bool:
        """Whether `identify` reads all of the content, and not some samples of it."""
        return True

    @property
    @abstractmethod
    def has_labels(self) -> bool:
        """Whether a batch has labels."""

    @property
    def has_views(self) -> bool:
        """Whether a sample differs from view to view."""
        return False

    @property
    def names(self) -> tuple[str, ...] | None:
        """Of the inputs, where they go by name and not by their order."""
        return None

    @abstractmethod
    def select(self, positions: Tensor, view: View | None = None) -> Split:
        """The samples at the positions int64 `[k]` (on the CPU), in that order.

        Raises:
            CompresscError: CC302 where one of them cannot be read, or is not like the others.
        """

    def all_labels(self) -> Tensor | None:
        """Labels `[n, ...]` of all samples where they are one tensor that costs little, or None."""
        return None

    @cached_property
    def identity(self) -> str:
        """sha256 (hex) of what `identify` feeds."""
        digest = hashlib.sha256()
        self.identify("", digest)
        return digest.hexdigest()

    @abstractmethod
    def identify(self, part: str, digest: Digest) -> None:
        """Feed what the samples are into the fingerprint of a data set.

        Args:
            part: what they are used for.
            digest: where it goes.
        """

    def cast(self, change: Change) -> Source:
        """The same samples with inputs in other dtypes or places; itself where nothing changes."""
        inputs = self.take(1).inputs
        return self if same(change(inputs), inputs) else Changed(self, change)

    def stream(self, requests: Iterable[Request]) -> Iterator[Split]:
        """`select` for one request after another."""
        for positions, view in requests:
            yield self.select(positions, view)

    def take(self, n: int) -> Split:
        """The first `n` samples, or all where there are fewer."""
        return self.select(torch.arange(min(n, len(self))))

    def batches(self, size: int) -> Iterator[Split]:
        """All samples in order, `size` (at least 1) at a time; the last batch may have fewer."""
        return self.stream((positions, None) for positions in in_order(len(self), size))

    def subset(self, positions: Tensor) -> Source:
        """The samples at the positions int64 `[k]` as a source of their own."""
        return Subset(self, positions)


def in_order(total: int, size: int) -> Iterator[Tensor]:
    """Positions 0 to `total`, `size` at a time."""
    if size < 1:
        raise ValueError(f"a batch holds at least one sample, not {size}")
    for start in range(0, total, size):
        yield torch.arange(start, min(start + size, total))


def same(new: Inputs, old: Inputs) -> bool:
    """Whether they are the very same tensors."""
    return len(new) == len(old) and all(a is b for a, b in zip(new, old, strict=True))


class Standing(Source):
    """What stands on another source and has what that has."""

    def __init__(self, whole: Source) -> None:
        self.whole = whole

    @property
    def hashed_whole(self) -> bool:
        """Whether `identify` reads all of the content, and not some samples of it."""
        return self.whole.hashed_whole

    def __len__(self) -> int:
        return len(self.whole)

    @property
    def has_labels(self) -> bool:
        """Whether a batch has labels."""
        return self.whole.has_labels

    @property
    def has_views(self) -> bool:
        """Whether a sample differs from view to view."""
        return self.whole.has_views

    @property
    def names(self) -> tuple[str, ...] | None:
        """Of the inputs, where they go by name and not by their order."""
        return self.whole.names

    def all_labels(self) -> Tensor | None:
        """Labels of all samples."""
        return self.whole.all_labels()

    def identify(self, part: str, digest: Digest) -> None:
        """Feed what the samples are into the fingerprint of a data set."""
        self.whole.identify(part, digest)


class Changed(Standing):
    """The samples of a source with their inputs changed, batch by batch.

    Args:
        whole: the source.
        change: from the inputs of a batch to others, sample by sample the same.
    """

    def __init__(self, whole: Source, change: Change) -> None:
        super().__init__(whole)
        self.change = change

    @property
    def names(self) -> tuple[str, ...] | None:
        """Of the inputs, where there are still as many."""
        names = self.whole.names
        return names if names is not None and len(names) == len(self.take(1).inputs) else None

    def select(self, positions: Tensor, view: View | None = None) -> Split:
        """The samples at the positions int64 `[k]`, changed."""
        return self._changed(self.whole.select(positions, view))

    def stream(self, requests: Iterable[Request]) -> Iterator[Split]:
        """As the whole reads them, changed."""
        return map(self._changed, self.whole.stream(requests))

    def identify(self, part: str, digest: Digest) -> None:
        """What the whole is, and what a few samples have become."""
        self.whole.identify(part, digest)
        for tensor in self.take(_SAMPLED).inputs:
            digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)

    def _changed(self, batch: Split) -> Split:
        return batch.with_inputs(self.change(batch.inputs))


class Subset(Standing):
    """Some samples of a source, in an order of their own.

    Args:
        whole: the source.
        positions: int64 `[k]` in it, on the CPU.
    """

    def __init__(self, whole: Source, positions: Tensor) -> None:
        super().__init__(whole)
        self.positions = positions

    def __len__(self) -> int:
        return len(self.positions)

    def identify(self, part: str, digest: Digest) -> None:
        """What the whole is, and which of it this is."""
        digest.update(f"{part}:{self.whole.identity}:".encode())
        digest.update(self.positions.numpy().data)

    def select(self, positions: Tensor, view: View | None = None) -> Split:
        """The samples at the positions int64 `[k]`; a view goes by the position in the whole."""
        return self.whole.select(self.positions[positions], view)

    def stream(self, requests: Iterable[Request]) -> Iterator[Split]:
        """As the whole reads them."""
        return self.whole.stream((self.positions[index], view) for index, view in requests)

    def subset(self, positions: Tensor) -> Source:
        """The samples at the positions int64 `[k]` as a source of their own."""
        return Subset(self.whole, self.positions[positions])

    def all_labels(self) -> Tensor | None:
        """Labels `[n, ...]` of all samples where they are one tensor that costs little, or None."""
        labels = self.whole.all_labels()
        return None if labels is None else labels[self.positions]
