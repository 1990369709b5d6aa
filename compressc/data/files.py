"""Data from files, read without pickle: small ones into memory, large ones row by row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from compressc.data.arrays import bad, to_labels
from compressc.data.columns import Columns
from compressc.data.dataset import Dataset
from compressc.data.keys import PartKeys, parts_of
from compressc.data.mapped import npy_files, safetensors_file, stored_members
from compressc.data.npz import Archive, available_memory, open_archive
from compressc.data.rows import ArrayColumn, Column, head, size_of
from compressc.data.source import Source
from compressc.data.split import Split
from compressc.data.splitting import assemble, assemble_parts, divide, share_of

#: Bytes of arrays that are kept in memory; of larger ones, rows are read from the file.
IN_MEMORY = 1 << 26


def read_npz(path: Path, seed: int = 0) -> Dataset:
    """Read a data set from a `.npz` file; its keys are explained in `compressc.data.keys`.

    An undivided set is divided 80 : 20 into train and test, each class in proportion. Calibration
    is up to 256 samples of train. float64 becomes float32. Arrays of more than 64 MB stay in the
    file, unless they are packed.

    Args:
        path: the file.
        seed: of the division. It is not the seed of a run: runs compare only on one test part.

    Raises:
        CompresscError: CC300 where the file is missing, damaged, holds pickled objects or keys
            that mean nothing here, or where its arrays do not fit together.
    """
    with open_archive(path) as archive:
        parts = parts_of(archive.members, str(path))
        heads = {key: member.head for key, member in archive.members.items()}
        for keys in parts.values():
            keys.check(heads, str(path))
        total = sum(member.bytes_in_memory for member in archive.members.values())
        columns = stored_members(path, archive) if total > IN_MEMORY else None
        if columns is not None:
            return from_columns(columns, path.name, str(path), seed)
        _check_memory(archive, path)
        if "" in parts:
            whole = _Part(parts[""], len(heads[parts[""].inputs[0]]), str(path))
            return assemble(path.name, *whole.divided(archive, seed), seed)
        found = {part: _Part(keys, 0, str(path)).whole(archive) for part, keys in parts.items()}
        return assemble_parts(path.name, found, seed)


def npz_columns(path: Path) -> Mapping[str, Column]:
    """The arrays of a `.npz` file: where they lie, or in memory where they are packed.

    Raises:
        CompresscError: CC300 as for `read_npz`.
    """
    with open_archive(path) as archive:
        columns = stored_members(path, archive)
        if columns is not None:
            return columns
        _check_memory(archive, path)
        return {key: ArrayColumn(archive.read(key)) for key in archive.members}


def read_npy(paths: list[Path], name: str, seed: int = 0) -> Dataset:
    """A data set of `.npy` files, each of which is the array of the key that it is called by.

    Raises:
        CompresscError: CC300 as for `read_npz`.
    """
    return from_columns(npy_files(paths), name, ", ".join(map(str, paths)), seed)


def read_safetensors(path: Path, seed: int = 0) -> Dataset:
    """A data set of a `.safetensors` file.

    Raises:
        CompresscError: CC300 as for `read_npz`.
    """
    return from_columns(safetensors_file(path), path.name, str(path), seed)


def from_columns(columns: Mapping[str, Column], name: str, where: str, seed: int = 0) -> Dataset:
    """A data set of arrays by their keys: small ones in memory, large ones where they are.

    Raises:
        CompresscError: CC300 for keys that mean nothing, or arrays that do not fit together.
    """
    return assemble_parts(name, sources_of(columns, where), seed)


def sources_of(columns: Mapping[str, Column], where: str) -> dict[str, Source]:
    """Each part of arrays by their keys, in the order of the file; `""` for an undivided whole.

    Raises:
        CompresscError: CC300 as for `from_columns`.
    """
    parts = parts_of(columns, where)
    heads = {key: head(column) for key, column in columns.items()}
    for keys in parts.values():
        keys.check(heads, where)
    small = sum(map(size_of, columns.values())) <= IN_MEMORY
    sources: dict[str, Source] = {}
    for part, keys in parts.items():
        labels = None if keys.labels is None else columns[keys.labels]
        inputs = tuple(columns[key] for key in keys.inputs)
        source = Columns(inputs, labels, f"{where}, {' and '.join(keys.inputs)}", keys.names)
        sources[part] = source.loaded() if small else source
    return sources


@dataclass(frozen=True)
class _Part:
    """One part of an archive that is read into memory."""

    keys: PartKeys
    samples: int
    where: str

    def whole(self, archive: Archive) -> Split:
        """All samples, in the order of the file."""
        inputs = tuple(torch.from_numpy(archive.read(key)) for key in self.keys.inputs)
        return Split(inputs, self._labels(archive), self.keys.names)

    def divided(self, archive: Archive, seed: int) -> tuple[Split, Split]:
        """A train and a test part, each class in proportion; each sample is in memory once."""
        labels = self._labels(archive)
        chosen, rest = divide(labels, self.samples, share_of(self.samples, self.where), seed)
        positions = (rest.numpy(), chosen.numpy())
        arrays = [archive.divide(key, positions) for key in self.keys.inputs]
        train, test = (
            Split(
                tuple(torch.from_numpy(array[index]) for array in arrays),
                None if labels is None else labels[part],
                self.keys.names,
            )
            for index, part in enumerate((rest, chosen))
        )
        return train, test

    def _labels(self, archive: Archive) -> Tensor | None:
        if self.keys.labels is None:
            return None
        return to_labels(archive.read(self.keys.labels), f"{self.where}, {self.keys.labels}")


def _check_memory(archive: Archive, path: Path) -> None:
    """A small file may unpack to more than the machine has: say so before it is tried."""
    wanted = sum(member.bytes_in_memory for member in archive.members.values())
    free = available_memory()
    if free is not None and wanted > free:
        got = f"{wanted / 1e9:.1f} GB, where {free / 1e9:.1f} GB are free"
        hint = "numpy.savez, without compression, writes what can be read row by row"
        raise bad("the arrays fit in memory", got, str(path), hint)
