"""Reading a `.npz` archive piece by piece: what it declares first, then only the bytes wanted.

numpy's own reader unpacks whole members, believes the sizes they declare, and may run code from
pickled ones. Here a member is known by its header alone, and its rows come in blocks that go
straight to where they belong: the samples are in memory once.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from compressc.data.arrays import Array, bad, model_dtype, read_header
from compressc.strangers import reading, regular_file

#: Bytes of a block of rows.
BLOCK = 1 << 20
#: Members of an archive.
_MOST_MEMBERS = 1000
_HINT = "write it with numpy.savez"


@dataclass(frozen=True)
class Member:
    """One array of an archive, as its header declares it."""

    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    columns_first: bool
    offset: int

    @property
    def rows(self) -> int:
        """Samples: the length of the first dimension, 0 where there is none."""
        return self.shape[0] if self.shape else 0

    @property
    def head(self) -> torch.Tensor:
        """A tensor of that shape and dtype without numbers, to hold against others."""
        dtype = torch.from_numpy(np.empty(0, model_dtype(self.dtype))).dtype
        return torch.empty(self.shape, dtype=dtype, device="meta")

    @property
    def bytes_in_memory(self) -> int:
        """Bytes of the array in the dtype that a model takes."""
        return math.prod(self.shape) * model_dtype(self.dtype).itemsize


class Archive:
    """The arrays of an open `.npz` file; see `open_archive`."""

    def __init__(self, file: zipfile.ZipFile, members: dict[str, Member]) -> None:
        self._file, self.members = file, members

    def read(self, key: str) -> Array:
        """The whole array, in the dtype that a model takes."""
        member = self.members[key]
        found = np.empty(member.shape, model_dtype(member.dtype))
        for start, block in self.blocks(key):
            found[start : start + len(block)] = block
        return found

    def divide(self, key: str, parts: tuple[Array, ...]) -> list[Array]:
        """The rows at the positions of each part, in its order, all read in one go.

        Args:
            key: of an array `[n, ...]`.
            parts: positions int64 `[k]`; no position is in two parts.
        """
        member = self.members[key]
        dtype = model_dtype(member.dtype)
        found = [np.empty((len(part), *member.shape[1:]), dtype) for part in parts]
        owner, place = np.full(member.rows, -1), np.empty(member.rows, np.int64)
        for index, part in enumerate(parts):
            owner[part], place[part] = index, np.arange(len(part))
        for start, block in self.blocks(key):
            rows = slice(start, start + len(block))
            for index, array in enumerate(found):
                mine = owner[rows] == index
                array[place[rows][mine]] = block[mine]
        return found

    def blocks(self, key: str) -> Iterator[tuple[int, Array]]:
        """(first row, rows) in order, in the dtype that a model takes."""
        member = self.members[key]
        if not member.rows:
            return
        row = math.prod(member.shape[1:]) * member.dtype.itemsize
        count = max(1, BLOCK // max(1, row))
        if member.columns_first:  # then a row is spread over the file
            whole = self._whole(member)
            for start in range(0, member.rows, count):
                yield start, _converted(whole[start : start + count], member)
            return
        with self._file.open(member.info) as stream:
            stream.read(member.offset)
            for start in range(0, member.rows, count):
                length = min(count, member.rows - start)
                raw = np.frombuffer(_exactly(stream, length * row), member.dtype)
                yield start, _converted(raw.reshape(length, *member.shape[1:]), member)

    def _whole(self, member: Member) -> Array:
        with self._file.open(member.info) as stream:
            stream.read(member.offset)
            size = math.prod(member.shape) * member.dtype.itemsize
            raw = np.frombuffer(_exactly(stream, size), member.dtype)
        return raw.reshape(member.shape, order="F")


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open a `.npz` file and read the headers of its arrays, no more.

    Raises:
        CompresscError: CC300 where it is missing, damaged, no archive or holds pickled objects,
            here or while its arrays are read.
    """
    where = str(path)
    regular_file(path, "CC300", "the data file exists")
    with (
        reading("CC300", "the file is a .npz archive", where, _HINT),
        zipfile.ZipFile(path) as file,
    ):
        yield Archive(file, _members(file, path))


def _members(file: zipfile.ZipFile, path: Path) -> dict[str, Member]:
    names = file.infolist()
    if len(names) > _MOST_MEMBERS:
        raise bad(f"at most {_MOST_MEMBERS} arrays", f"{len(names)}", str(path), _HINT)
    found: dict[str, Member] = {}
    for info in names:
        key = info.filename.removesuffix(".npy")
        if key in found:
            raise bad("the arrays of an archive have different names", repr(key), str(path), _HINT)
        found[key] = _member(file, info, f"{path}, {key}")
    return found


def _member(file: zipfile.ZipFile, info: zipfile.ZipInfo, where: str) -> Member:
    with file.open(info) as stream:
        header = read_header(stream, info.file_size, where, _HINT)
    return Member(info, header.shape, header.dtype, header.columns_first, header.offset)


def _exactly(stream: IO[bytes], size: int) -> bytearray:
    """So many bytes, in pieces: one large `read` of an archive takes twice its size."""
    data = bytearray(size)
    view = memoryview(data)
    for start in range(0, size, BLOCK):
        piece = stream.read(min(BLOCK, size - start))
        view[start : start + len(piece)] = piece
        if len(piece) < min(BLOCK, size - start):
            raise EOFError("the array ends early")
    return data


def _converted(array: Array, member: Member) -> Array:
    with np.errstate(over="ignore"):  # infinities are found, and named, later
        return array.astype(model_dtype(member.dtype), copy=False)


def available_memory() -> int | None:
    """Bytes that can be taken without swapping, where the system says so (Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    free = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(free[0]) * 1024 if free else None


def write_npz(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """`numpy.savez` for arrays of any name (`file` is one of its own) and a path that ends anyhow.

    Raises:
        OSError: where it cannot be written.
    """
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
