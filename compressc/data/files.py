"""Data from a `.npz` file, read without pickle."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from compressc.data.arrays import bad, to_labels
from compressc.data.checks import check_labels, check_samples
from compressc.data.dataset import Dataset
from compressc.data.npz import Archive, Member, available_memory, open_archive
from compressc.data.split import Split
from compressc.data.splitting import assemble, divide

TEST_SHARE = 0.2
KEYS = "x (or x0, x1, ...) and y, or x_train, y_train, x_test, y_test"

_INPUT = re.compile(r"x(\d*)(_train|_test)?")
_LABEL = re.compile(r"y(_train|_test)?")


def read_npz(path: Path, seed: int = 0) -> Dataset:
    """Read a data set from a `.npz` file.

    Keys: `x` `[n, ...]`, or `x0`, `x1`, ... for a model of several inputs, and `y` `[n, ...]` where
    there are labels. These are divided 80 : 20 into train and test, each class in proportion. With
    `x_train`, `y_train`, `x_test`, `y_test` (`x0_train`, ...) the division is the file's own.
    Calibration is up to 256 samples of train. float64 becomes float32.

    Args:
        path: the file.
        seed: of the division. It is not the seed of a run: runs compare only on one test part.

    Raises:
        CompresscError: CC300 where the file is missing, damaged, holds pickled objects or keys
            that mean nothing here, or where its arrays do not fit together.
    """
    with open_archive(path) as archive:
        _check_keys(archive.members, path)
        name, explicit = (
            path.name,
            any(key.endswith(("_train", "_test")) for key in archive.members),
        )
        parts = [
            _Part.of(archive, part, path) for part in (("_train", "_test") if explicit else ("",))
        ]
        _check_memory(archive, path)
        if explicit:
            train, test = (part.whole(archive) for part in parts)
        else:
            train, test = parts[0].divided(archive, seed)
    return assemble(name, train, test, seed)


@dataclass(frozen=True)
class _Part:
    """The keys of one part of a file, whose headers fit together."""

    inputs: list[str]
    labels: str | None
    samples: int
    where: str

    @staticmethod
    def of(archive: Archive, part: str, path: Path) -> _Part:
        """Find the keys, and see that their headers fit together: no bytes are read before."""
        keys = _input_keys(archive.members, part, path)
        heads = tuple(archive.members[key].head for key in keys)
        check_samples(heads, f"{path}, {' and '.join(keys)}")
        label = f"y{part}" if f"y{part}" in archive.members else None
        if label is not None:
            check_labels(archive.members[label].head, len(heads[0]), f"{path}, {label}")
        return _Part(keys, label, len(heads[0]), str(path))

    def whole(self, archive: Archive) -> Split:
        """All samples, in the order of the file."""
        inputs = tuple(torch.from_numpy(archive.read(key)) for key in self.inputs)
        return Split(inputs, self._labels(archive))

    def divided(self, archive: Archive, seed: int) -> tuple[Split, Split]:
        """A train and a test part, each class in proportion; each sample is in memory once."""
        if self.samples < 2:
            hint = "give more, or x_train and x_test"
            raise bad("a file to be divided holds two samples or more", "1", self.where, hint)
        labels = self._labels(archive)
        count = max(1, round(self.samples * TEST_SHARE))
        chosen, rest = divide(labels, self.samples, count, seed)
        positions = (rest.numpy(), chosen.numpy())
        arrays = [archive.divide(key, positions) for key in self.inputs]
        train, test = (
            Split(
                tuple(torch.from_numpy(array[index]) for array in arrays),
                None if labels is None else labels[part],
            )
            for index, part in enumerate((rest, chosen))
        )
        return train, test

    def _labels(self, archive: Archive) -> Tensor | None:
        if self.labels is None:
            return None
        return to_labels(archive.read(self.labels), f"{self.where}, {self.labels}")


def _check_memory(archive: Archive, path: Path) -> None:
    """A small file may unpack to more than the machine has: say so before it is tried."""
    wanted = sum(member.bytes_in_memory for member in archive.members.values())
    free = available_memory()
    if free is not None and wanted > free:
        got = f"{wanted / 1e9:.1f} GB, where {free / 1e9:.1f} GB are free"
        raise bad("the arrays fit in memory", got, str(path), "give fewer samples")


def _check_keys(arrays: Mapping[str, Member], path: Path) -> None:
    unknown = [key for key in arrays if not (_INPUT.fullmatch(key) or _LABEL.fullmatch(key))]
    if unknown:
        # an unread `label` would silently turn a labelled set into one without
        wanted = f"the keys of a .npz data file are {KEYS}"
        known = ["x", "y", "x_train", "x_test", "y_train", "y_test"]
        near = difflib.get_close_matches(unknown[0].strip().lower(), known, 1)
        hint = f"rename it to {near[0]!r} or leave it out" if near else "rename it or leave it out"
        raise bad(wanted, f"key {unknown[0]!r}", str(path), hint)
    plain = [key for key in arrays if not key.endswith(("_train", "_test"))]
    if plain and len(plain) < len(arrays):
        raise bad(
            "a .npz data file holds one undivided set, or a train and a test part",
            ", ".join(sorted(arrays)),
            str(path),
            f"the keys are {KEYS}",
        )


def _input_keys(arrays: Mapping[str, Member], part: str, path: Path) -> list[str]:
    names = [m[1] for key in arrays if (m := _INPUT.fullmatch(key)) and (m[2] or "") == part]
    wanted = [""] if names == [""] else [str(i) for i in range(len(names))]
    if names and sorted(names) == sorted(wanted):
        return [f"x{name}{part}" for name in wanted]
    raise bad(
        f"a .npz data file has the key x{part}, or x0{part}, x1{part}, ... without a gap",
        f"keys {', '.join(sorted(arrays)) or 'none'}",
        str(path),
        f"the keys are {KEYS}",
    )
