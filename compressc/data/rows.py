"""Arrays whose rows are read when they are asked for: from a file, or from an array of numpy's.

Rows are read, not mapped: what is mapped counts to the memory of the process, and a file that is
cut while it is mapped ends the process without a word. The system keeps what was read, as it does
for maps.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from torch import Tensor

from compressc.data.arrays import Array, model_dtype
from compressc.errors import CompresscError

#: Bytes of a block where all rows are read in order.
BLOCK = 1 << 20
#: Bytes from which on room for rows is taken from the system and not from the heap.
_LARGE = 1 << 17


class Column(Protocol):
    """One array `[n, ...]`, input or labels, of which rows can be read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """`[n, ...]`."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """As it is stored."""

    def rows(self, positions: Array) -> Array:
        """The rows at the positions int64 `[k]`, a new array in the dtype as stored.

        Raises:
            CompresscError: CC302 where they cannot be read.
        """

    def stamp(self) -> str:
        """What changes where the content does, as far as that shows without reading it."""


@dataclass(frozen=True)
class FileColumn:
    """An array in a file, row by row.

    Attributes:
        path: the file.
        offset: bytes before the array.
        shape: `[n, ...]`.
        dtype: of the numbers.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @cached_property
    def _file(self) -> BinaryIO:
        try:
            return self.path.open("rb", buffering=0)
        except OSError as error:
            raise _lost(self.path, error.strerror or str(error)) from error

    def rows(self, positions: Array) -> Array:
        """The rows at the positions int64 `[k]`; neighbours are read in one go."""
        found = _buffer((len(positions), *self.shape[1:]), self.dtype)
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        if not row or not len(positions):
            return found
        target = found.reshape(-1).view(np.uint8).data
        breaks = np.flatnonzero(np.diff(positions) != 1) + 1
        starts = [0, *breaks.tolist()]
        for first, last in zip(starts, [*starts[1:], len(positions)], strict=True):
            place = self.offset + int(positions[first]) * row
            self._read(target[first * row : last * row], place)
        return found

    def stamp(self) -> str:
        """Size and time of the last change."""
        found = os.fstat(self._file.fileno())
        return f"{found.st_size} {found.st_mtime_ns}"

    def _read(self, target: memoryview, place: int) -> None:
        descriptor, done = self._file.fileno(), 0
        while done < len(target):
            try:
                count = os.preadv(descriptor, [target[done:]], place + done)
            except OSError as error:
                raise _lost(self.path, error.strerror or str(error)) from error
            if not count:
                size = os.fstat(descriptor).st_size
                end = place + len(target)
                raise _lost(self.path, f"{size:,} bytes, where a sample ends at {end:,}")
            done += count


@dataclass(frozen=True)
class ArrayColumn:
    """An array of numpy's that is left where it is, a `numpy.memmap` above all."""

    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """`[n, ...]`."""
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """As it is stored."""
        return self.array.dtype

    def rows(self, positions: Array) -> Array:
        """The rows at the positions int64 `[k]`."""
        self._check_size()
        found: Array = np.asarray(self.array)[positions]
        self._let_go()
        return found

    def stamp(self) -> str:
        """Size and time of the file behind a map."""
        path = getattr(self.array, "filename", None)
        found = None if path is None else os.stat(path)
        return "" if found is None else f"{found.st_size} {found.st_mtime_ns}"

    def _check_size(self) -> None:
        """A map of a file that was cut ends the process where its end is read."""
        if not isinstance(self.array, np.memmap) or self._map is None:
            return
        offset = self.array.offset
        end = offset - offset % mmap.ALLOCATIONGRANULARITY + len(self._map)
        if self._map.size() < end:
            got = f"{self._map.size():,} bytes, where {end:,} are mapped"
            raise _lost(Path(str(self.array.filename)), got)

    def _let_go(self) -> None:
        """The pages that were read: they count to the memory of this process."""
        # not of a map that is private: there they hold what was written
        if self._map is not None and getattr(self.array, "mode", "c") in ("r", "r+"):
            self._map.madvise(mmap.MADV_DONTNEED)

    @property
    def _map(self) -> mmap.mmap | None:
        return getattr(self.array, "_mmap", None)


def _buffer(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Room for rows; a large one is given back to the system, and leaves no hole in the heap.

    Small results that are kept between batches would sit in such holes, and the next batch would
    find none large enough: the heap would grow by a batch each time.
    """
    size = math.prod(shape) * dtype.itemsize
    if size < _LARGE:
        return np.empty(shape, dtype)
    return np.frombuffer(mmap.mmap(-1, size), dtype).reshape(shape)


def _lost(path: Path, got: str) -> CompresscError:
    return CompresscError(
        "CC302",
        "the data stay as they were when the run began",
        got=got,
        where=str(path),
        hint="start again with the whole file; what was trained is kept",
    )


def head(column: Column) -> Tensor:
    """A tensor of its shape and the dtype that a model takes, without numbers."""
    dtype = torch.from_numpy(np.empty(0, model_dtype(column.dtype))).dtype
    return torch.empty(column.shape, dtype=dtype, device="meta")


def size_of(column: Column) -> int:
    """Bytes of all rows in the dtype that a model takes."""
    return math.prod(column.shape) * model_dtype(column.dtype).itemsize


def blocks(column: Column) -> Iterator[Array]:
    """All rows in order, about a megabyte at a time, in the dtype that a model takes."""
    row = max(1, math.prod(column.shape[1:]) * column.dtype.itemsize)
    count = max(1, BLOCK // row)
    for start in range(0, column.shape[0], count):
        yield converted(column.rows(np.arange(start, min(start + count, column.shape[0]))))


def converted(array: Array) -> Array:
    """In the dtype that a model takes."""
    with np.errstate(over="ignore"):  # infinities are found, and named, later
        return array.astype(model_dtype(array.dtype), copy=False)
