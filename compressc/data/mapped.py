"""Arrays in files whose rows can be read by themselves: `.npy`, `.safetensors`, stored `.npz`."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compressc.data.arrays import bad, read_header
from compressc.data.npz import Archive, Member
from compressc.data.rows import ArrayColumn, Column, FileColumn
from compressc.strangers import reading, regular_file

#: Bytes of the header of a `.safetensors` file, as the format has it.
_MOST_TENSORS = 100_000_000
#: Bytes of a file's header in a zip archive, and where the lengths of what follows it are.
_LOCAL, _NAME, _EXTRA = 30, slice(26, 28), slice(28, 30)
_DTYPES = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "U64": "<u8",
    "I64": "<i8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
}


def npy_files(paths: Sequence[Path]) -> dict[str, Column]:
    """The arrays of `.npy` files, each under the name of its file.

    Raises:
        CompresscError: CC300 where one is missing, damaged or holds pickled objects.
    """
    return {path.stem: _npy(path) for path in paths}


def _npy(path: Path) -> Column:
    where, hint = str(path), "write it with numpy.save"
    size = regular_file(path, "CC300", "the data file exists")
    with reading("CC300", "the file is a .npy array", where, hint), path.open("rb") as file:
        header = read_header(file, size, where, hint)
        if header.columns_first:
            return ArrayColumn(np.load(path, mmap_mode="r", allow_pickle=False))
    return FileColumn(path, header.offset, header.shape, header.dtype)


def safetensors_file(path: Path) -> dict[str, Column]:
    """The tensors of a `.safetensors` file.

    Raises:
        CompresscError: CC300 where it is missing or damaged, or holds numbers numpy does not have.
    """
    where, hint = str(path), "write it with safetensors.numpy.save_file"
    size = regular_file(path, "CC300", "the data file exists")
    with reading("CC300", "the file is a .safetensors file", where, hint), path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(_MOST_TENSORS, size - 8):
            raise bad("a header that is in the file", f"{length:,} bytes", where, hint)
        listed = json.loads(file.read(length))
        listed.pop("__metadata__", None)
        return {
            key: _tensor(path, entry, 8 + length, size, f"{path}, {key}")
            for key, entry in listed.items()
        }


def _tensor(path: Path, entry: Mapping[str, Any], start: int, size: int, where: str) -> Column:
    if entry["dtype"] not in _DTYPES:
        raise bad("arrays hold numbers that numpy has", entry["dtype"], where, "save them as F32")
    dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(map(int, entry["shape"]))
    first, last = map(int, entry["data_offsets"])
    declared = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or first < 0 or last - first != declared or start + last > size:
        got = f"bytes {first} to {last} for {list(shape)} of {dtype}"
        raise bad("a tensor lies in the file", got, where, "write it again")
    return FileColumn(path, start + first, shape, dtype)


def stored_members(path: Path, archive: Archive) -> dict[str, Column] | None:
    """The arrays of a `.npz` file as rows in it; None where one is packed or has columns first."""
    members = archive.members.values()
    if any(m.columns_first or m.info.compress_type != zipfile.ZIP_STORED for m in members):
        return None
    with path.open("rb") as file:
        found: dict[str, Column] = {}
        for key, member in archive.members.items():
            file.seek(member.info.header_offset)
            found[key] = _stored(path, member, file.read(_LOCAL))
        return found


def _stored(path: Path, member: Member, local: bytes) -> FileColumn:
    behind = sum(int.from_bytes(local[part], "little") for part in (_NAME, _EXTRA))
    offset = member.info.header_offset + _LOCAL + behind + member.offset
    return FileColumn(path, offset, member.shape, member.dtype)
