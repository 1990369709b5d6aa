"""A teacher's answers, kept row by row: in memory, or in files that are mapped into it.

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
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from compressc.durable import make_folder, sync, write_text
from compressc.errors import CompresscError

VERSION = 1
ABOUT, DONE = "answers.json", "done.bin"
#: Seconds of the teacher's work that a crash may cost.
SECONDS = 30.0

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


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


class AnswerStore:
    """Rows that are written once and read again and again.

    Args:
        layout: of the rows.
        columns: the bytes of each value, `[rows, bytes of a row]`.
        done: a flag for each row.
        sync: makes the columns durable, then takes the flags.
        clock: seconds; for tests.
    """

    def __init__(
        self,
        layout: Layout,
        columns: Sequence[Bytes],
        done: Bytes,
        sync: Callable[[Bytes], None] = lambda done: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.layout, self._columns, self._sync, self._clock = layout, columns, sync, clock
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


def in_memory(layout: Layout) -> AnswerStore:
    """A store that ends with the process; rows take memory as they are written."""
    columns = [np.empty((layout.rows, form.bytes), np.uint8) for form in layout.forms]
    return AnswerStore(layout, columns, np.zeros(layout.rows, np.uint8))


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
    store = _mapped(folder, layout, "r")
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
            self.store = _mapped(folder, layout)
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Sync what was written, and let another process have it."""
        self.store.flush()
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


def _mapped(folder: Path, layout: Layout, mode: Literal["r", "r+"] = "r+") -> AnswerStore:
    maps = [
        np.memmap(path, np.uint8, mode, shape=(size,)) if size else np.empty(0, np.uint8)
        for path, size in _files(folder, layout).items()
    ]
    *columns, flags = maps
    shaped = [column.reshape(layout.rows, -1) for column in columns]

    def save(done: Bytes) -> None:
        for column in columns:
            if isinstance(column, np.memmap):
                column.flush()
        flags[:] = done
        if isinstance(flags, np.memmap):
            flags.flush()

    return AnswerStore(layout, shaped, np.array(flags), save)
