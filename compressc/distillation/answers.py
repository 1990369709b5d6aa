"""A teacher's answers, kept row by row: in memory or in files, which are read and not mapped.

A folder of answers holds

- `answers.json`: `version`, `key` (what they are answers of), `samples`, `views`, and for each
  value `dtype` and `shape` of one row; and `largest`, where the judged class scores are kept short:
  `count` k, `temperature` T and `classes`. The first three values are then log-probabilities at T
  of the k largest, their classes, and the log of the probability of all other classes together;
- `value-0.bin`, `value-1.bin`, ...: the rows of each value one after another, in that dtype,
  little-endian. Row `view * samples + position` is the answer to that view of that sample;
- `done.bin`: a byte for each row, 1 where it is there.

Files have their full size from the start, so that a disk that is too small shows before any work.
Rows are flagged after they were synced: what a killed process had not flagged is asked for again.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from compressc.durable import make_folder, sync, write_text
from compressc.errors import CompresscError

VERSION = 1
ABOUT, DONE = "answers.json", "done.bin"
#: Bytes of answers that may stay in memory where nobody asks for that; more go into a file.
IN_MEMORY = 1 << 26
#: Seconds of the teacher's work that a crash may cost.
SECONDS = 30.0

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
#: Positions of rows.
Index = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Form:
    """One value of a row: its dtype and shape."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Of a row."""
        return self.dtype.itemsize * int(np.prod(self.shape, dtype=np.int64))

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}{list(self.shape)}"


@dataclass(frozen=True)
class Layout:
    """What a store holds.

    Attributes:
        key: of all that the answers depend on; others are no use.
        samples, views: a row for each view of each sample.
        forms: of the values of a row.
        largest: how the judged class scores are kept short, where they are.
    """

    key: str
    samples: int
    views: int
    forms: tuple[Form, ...]
    largest: Mapping[str, float] | None = None

    @property
    def rows(self) -> int:
        """In all."""
        return self.samples * self.views

    @property
    def bytes(self) -> int:
        """In all, with a flag for each row."""
        return self.rows * (1 + sum(form.bytes for form in self.forms))

    def as_json(self) -> dict[str, Any]:
        """What `answers.json` says."""
        forms = [
            {"dtype": str(form.dtype).removeprefix("torch."), "shape": list(form.shape)}
            for form in self.forms
        ]
        head = {"version": VERSION, "key": self.key}
        found = {**head, "samples": self.samples, "views": self.views, "values": forms}
        return found if self.largest is None else {**found, "largest": dict(self.largest)}


class Rows(Protocol):
    """One value of all rows, `[rows, bytes of a row]`, by positions int64 `[k]`."""

    def __getitem__(self, index: Index) -> Bytes:
        """The rows there."""

    def __setitem__(self, index: Index, rows: Bytes) -> None:
        """Put rows there."""


class FileRows:
    """Rows of one size in an open file.

    Read and written, not mapped: what is mapped counts to the memory of the process.

    Args:
        file: unbuffered.
        size: bytes of a row.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size

    def __getitem__(self, index: Index) -> Bytes:
        """The rows there; neighbours are read in one go.

        Raises:
            CompresscError: CC303 where the file was cut.
        """
        found = np.empty((len(index), self.size), np.uint8)
        for first, last in self._runs(index):
            place = int(index[first]) * self.size
            self._all(os.preadv, found[first:last].reshape(-1).data, place)
        return found

    def __setitem__(self, index: Index, rows: Bytes) -> None:
        """Put rows there.

        Raises:
            OSError: where the disk refuses.
        """
        for first, last in self._runs(index):
            place = int(index[first]) * self.size
            self._all(os.pwritev, np.ascontiguousarray(rows[first:last]).reshape(-1).data, place)

    def _runs(self, index: Index) -> list[tuple[int, int]]:
        """Where positions go up by one: first, and behind the last."""
        if not self.size or not len(index):
            return []
        breaks = (np.flatnonzero(np.diff(index) != 1) + 1).tolist()
        return list(zip([0, *breaks], [*breaks, len(index)], strict=True))

    def _all(self, move: Callable[..., int], bytes_: memoryview, place: int) -> None:
        """Move so many bytes, however many the system moves at a time."""
        done = 0
        while done < len(bytes_):
            count = move(self.file.fileno(), [bytes_[done:]], place + done)
            if not count:
                where = str(self.file.name)
                got = "a file that was cut"
                raise CompresscError("CC303", "all answers are there", got=got, where=where)
            done += count


class AnswerStore:
    """Rows that are written once and read again and again.

    Args:
        layout: of the rows.
        columns: the bytes of each value.
        done: a flag for each row.
        sync: makes the columns durable, then takes the flags.
        clock: seconds; for tests.
    """

    def __init__(
        self,
        layout: Layout,
        columns: Sequence[Rows],
        done: Bytes,
        sync: Callable[[Bytes], None] = lambda done: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.layout, self._sync, self._clock = layout, sync, clock
        self._columns = tuple(columns)
        self._done = done
        self._kept = clock()

    @property
    def missing(self) -> int:
        """How many rows are not there yet."""
        return len(self._done) - int(np.count_nonzero(self._done))

    def has(self, rows: Tensor) -> Tensor:
        """Which of the rows int64 `[k]` are there, bool `[k]`."""
        return torch.from_numpy(self._done[rows.numpy()] == 1)

    def read(self, rows: Tensor) -> list[Tensor]:
        """The values of rows int64 `[k]` that are there, `[k, ...]` each."""
        index = rows.numpy()
        found = []
        for column, form in zip(self._columns, self.layout.forms, strict=True):
            flat = torch.from_numpy(column[index].reshape(-1))
            found.append(flat.view(form.dtype).view(len(index), *form.shape))
        return found

    def write(self, rows: Tensor, values: Sequence[Tensor]) -> None:
        """Keep the values `[k, ...]` of rows int64 `[k]`, rounded to the dtypes of the layout."""
        index = rows.numpy()
        for column, form, value in zip(self._columns, self.layout.forms, values, strict=True):
            plain = value.detach().to("cpu", form.dtype).contiguous()
            column[index] = plain.view(-1).view(torch.uint8).view(len(index), form.bytes).numpy()
        self._done[index] = 1
        if self._clock() - self._kept >= SECONDS:
            self.flush()

    def flush(self) -> None:
        """See that what was written outlives a power cut."""
        self._sync(self._done)
        self._kept = self._clock()

    def close(self) -> None:
        """Give room and files back; nothing can be read any more."""
        for column in self._columns:
            if isinstance(column, FileRows):
                column.file.close()
        self._columns = ()


def in_memory(layout: Layout) -> AnswerStore:
    """A store that ends with the process; rows take memory as they are written."""
    columns = [np.empty((layout.rows, form.bytes), np.uint8) for form in layout.forms]
    return AnswerStore(layout, columns, np.zeros(layout.rows, np.uint8))


def aside(layout: Layout) -> AnswerStore:
    """A store that ends with the process: in memory where it is small, else in nameless files.

    In memory, too, where the temporary folder has no room.
    """
    if layout.bytes <= IN_MEMORY:
        return in_memory(layout)
    try:
        columns = [_nameless(layout.rows, form.bytes) for form in layout.forms]
    except OSError:
        return in_memory(layout)
    return AnswerStore(layout, columns, np.zeros(layout.rows, np.uint8))


def _nameless(rows: int, size: int) -> FileRows:
    file: Any = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  (open as long as the store is)
    if rows * size:
        os.posix_fallocate(file.fileno(), 0, rows * size)
    return FileRows(file, size)


def read_only(folder: Path, layout: Layout) -> AnswerStore:
    """Answers that lie in a folder, all of them.

    Raises:
        CompresscError: CC303 where they are of another teacher or other samples, or incomplete.
    """
    found, wanted = read_about(folder), layout.as_json()
    if found != wanted or not _sizes(folder, layout):
        differs = sorted(name for name in wanted if (found or {}).get(name) != wanted[name])
        raise CompresscError(
            "CC303",
            "the answers are of this teacher and these samples",
            got=f"another {', '.join(differs)}" if found and differs else "no folder of answers",
            where=str(folder),
            hint="write them with compressc teacher",
        )
    store = _opened(folder, layout, "rb")
    if store.missing:
        got = f"{store.missing:,} of {layout.rows:,} missing"
        hint = "compressc teacher goes on where it was"
        raise CompresscError(
            "CC303", "all answers are there", got=got, where=str(folder), hint=hint
        )
    return store


class Locked:
    """A folder of answers that this process alone writes.

    Args:
        folder: made where it is missing; answers of another layout in it are dropped.
        layout: of the rows.

    Attributes:
        store: the rows.
        replaced: whether there were others.

    Raises:
        BlockingIOError: where another process has it.
        OSError: where it cannot be made, or the disk has no room for all of it.
    """

    def __init__(self, folder: Path, layout: Layout) -> None:
        make_folder(folder)
        self._lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.replaced = self._fit(folder, layout)
            self.store = _opened(folder, layout)
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Sync what was written, and let another process have it."""
        self.store.flush()
        self.store.close()
        os.close(self._lock)

    def _fit(self, folder: Path, layout: Layout) -> bool:
        """Make files of that layout where they are not there; True where others had to go."""
        wanted = layout.as_json()
        found = read_about(folder)
        if found == wanted and _sizes(folder, layout):
            return False
        stale = found is not None
        for path in folder.iterdir():  # the description first: half a folder is none
            if path.name == ABOUT:
                path.unlink()
        sync(folder)
        for path in folder.glob("*.bin"):
            path.unlink()
        for path, size in _files(folder, layout).items():
            with path.open("wb") as file:
                if size:
                    os.posix_fallocate(file.fileno(), 0, size)
            sync(path)
        write_text(folder / ABOUT, json.dumps(wanted))
        return stale


def read_about(folder: Path) -> dict[str, Any] | None:
    """What `answers.json` says; None where it is no such file, or damaged."""
    try:
        found = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _files(folder: Path, layout: Layout) -> dict[Path, int]:
    """Every file with its size."""
    values = {
        folder / f"value-{i}.bin": layout.rows * form.bytes for i, form in enumerate(layout.forms)
    }
    return {**values, folder / DONE: layout.rows}


def _sizes(folder: Path, layout: Layout) -> bool:
    try:
        return all(p.stat().st_size == size for p, size in _files(folder, layout).items())
    except OSError:
        return False


def _opened(folder: Path, layout: Layout, mode: Literal["rb", "r+b"] = "r+b") -> AnswerStore:
    *paths, about = _files(folder, layout)
    columns = [
        FileRows(path.open(mode, buffering=0), form.bytes)
        for path, form in zip(paths, layout.forms, strict=True)
    ]
    flags = np.fromfile(about, np.uint8)

    def save(done: Bytes) -> None:
        for column in columns:
            os.fsync(column.file.fileno())
        with about.open("r+b") as file:
            file.write(done.tobytes())
        sync(about)

    return AnswerStore(layout, columns, flags, save)
