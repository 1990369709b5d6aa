"""`Columns`: samples that are rows of arrays which stay where they are."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compressc.data.arrays import Array, check_numeric, to_labels
from compressc.data.checks import check_labels, check_samples, check_values
from compressc.data.rows import Column, blocks, converted, head, size_of
from compressc.data.source import Digest, Source
from compressc.data.split import Split
from compressc.pipeline import View

#: Data up to this size are read once before a run: every value is checked and hashed.
READ_WHOLE = 1 << 30
#: Labels up to this size are kept in memory.
_LABELS = 1 << 26
#: Samples of larger data that are hashed, spread evenly.
_SAMPLED = 256


class Columns(Source):
    """Samples that are rows of arrays, read when they are asked for.

    Args:
        inputs: one array `[n, ...]` for each input.
        labels: `[n, ...]`, or None.
        where: what to call them in errors.
        names: of the inputs, where they go by name.

    Raises:
        CompresscError: CC300 where the arrays do not fit together.
    """

    def __init__(
        self,
        inputs: tuple[Column, ...],
        labels: Column | None,
        where: str,
        names: tuple[str, ...] | None = None,
    ) -> None:
        for column in (*inputs, *(() if labels is None else (labels,))):
            check_numeric(column.dtype, where)
        check_samples(tuple(map(head, inputs)), where)
        self.inputs, self.where = inputs, where
        self._names, self._labels = names, labels
        if labels is not None:
            check_labels(head(labels), len(self), where)

    def __len__(self) -> int:
        return self.inputs[0].shape[0]

    @property
    def names(self) -> tuple[str, ...] | None:
        """Of the inputs, where they go by name."""
        return self._names

    @property
    def has_labels(self) -> bool:
        """Whether there are labels."""
        return self._labels is not None

    def select(self, positions: Tensor, view: View | None = None) -> Split:
        """The samples at the positions int64 `[k]`, in that order.

        Raises:
            CompresscError: CC300 where they hold NaN or infinity, CC302 where a file was cut.
        """
        index = positions.numpy()
        inputs = tuple(torch.from_numpy(converted(column.rows(index))) for column in self.inputs)
        labels = self._rows_of_labels(positions)
        check_values(inputs, labels, self.where)
        return Split.of(inputs, labels)

    def loaded(self) -> Split:
        """All samples in memory."""
        whole = self.select(torch.arange(len(self)))
        return Split(whole.inputs, whole.labels, self.names)

    def all_labels(self) -> Tensor | None:
        """Labels of all samples, where they are small enough to stay in memory."""
        small = self._labels is not None and size_of(self._labels) <= _LABELS
        return self._kept_labels if small else None

    def identify(self, part: str, digest: Digest) -> None:
        """The content where it was read, else sizes, times and some of the samples."""
        digest.update(f"{part}:{self._content}".encode())

    @property
    def hashed_whole(self) -> bool:
        """Whether the data are small enough for all of them to be read before a run."""
        return sum(map(size_of, self._columns)) <= READ_WHOLE

    @cached_property
    def _content(self) -> str:
        """sha256 (hex); all values are checked where all are read.

        Raises:
            CompresscError: CC300 where they hold NaN or infinity.
        """
        digest = hashlib.sha256()
        for column in self._columns:
            digest.update(f"{column.dtype}{column.shape}".encode())
            for block in blocks(column) if self.hashed_whole else self._sample(column):
                if column is not self._labels:
                    check_values((torch.from_numpy(block),), None, self.where)
                digest.update(np.ascontiguousarray(block).view(np.uint8).data)
        return digest.hexdigest()

    def _sample(self, column: Column) -> list[Array]:
        positions = np.unique(np.linspace(0, len(self) - 1, _SAMPLED).astype(np.int64))
        stamp = np.frombuffer(bytearray(column.stamp().encode()), np.uint8)
        return [converted(column.rows(positions)), stamp]

    @property
    def _columns(self) -> tuple[Column, ...]:
        return self.inputs if self._labels is None else (*self.inputs, self._labels)

    @cached_property
    def _kept_labels(self) -> Tensor:
        assert self._labels is not None
        return self._to_labels(self._labels.rows(np.arange(len(self))))

    def _rows_of_labels(self, positions: Tensor) -> Any:
        if self._labels is None:
            return None
        known = self.all_labels()
        if known is not None:
            return known[positions]
        return self._to_labels(self._labels.rows(positions.numpy()))

    def _to_labels(self, array: Array) -> Tensor:
        return to_labels(torch.from_numpy(converted(array)), f"the labels of {self.where}")
