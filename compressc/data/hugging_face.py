"""`Table`: a Hugging Face `datasets.Dataset`, read in batches of rows as it stores them (Arrow)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compressc.data.arrays import Array, bad, to_labels, to_tensor
from compressc.data.checks import NO_LABEL, check_values
from compressc.data.keys import LABELS
from compressc.data.padding import filling, joined
from compressc.data.source import Digest, Source
from compressc.data.split import Split
from compressc.errors import CompresscError
from compressc.pipeline import View
from compressc.strangers import reading

#: Tables up to this size are hashed whole; of larger ones, some rows.
_HASHED_WHOLE, _SAMPLED, _ROWS = 1 << 28, 256, 1000


def is_table(value: Any) -> bool:
    """Whether it is a `datasets.Dataset` that makes no samples by a function of the user's."""
    if type(value).__module__.partition(".")[0] != "datasets" or not hasattr(value, "with_format"):
        return False
    return hasattr(value, "__len__") and value.format["type"] != "custom"


def load_saved(folder: Path) -> Any:
    """What `save_to_disk` wrote: a `Dataset` or a `DatasetDict`.

    Raises:
        CompresscError: CC300 where it cannot be read, or `datasets` is not installed.
    """
    hint = "pip install 'compressc[datasets]'; the folder is what save_to_disk wrote"
    with reading("CC300", "the folder is a saved Hugging Face data set", str(folder), hint):
        import datasets

        return datasets.load_from_disk(str(folder))


def is_saved(folder: Path) -> bool:
    """Whether a folder looks like what `save_to_disk` writes."""
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))


class Table(Source):
    """The columns of numbers of a Hugging Face data set, by name.

    Columns of text are left out. `label`, `labels`, `y`, `target` or `targets` is the target. Rows
    of several lengths are padded where there is an `attention_mask`; see `compressc.data.padding`.

    Args:
        dataset: a `datasets.Dataset`.
        where: what to call it in errors.

    Raises:
        CompresscError: CC300 where there is no row, or no column of numbers.
    """

    def __init__(self, dataset: Any, where: str) -> None:
        self.where, self.total = where, len(dataset)
        if not self.total:
            raise bad("a part of the data holds at least one sample", "none", where, "")
        rows = dataset.with_format("numpy")
        first = {name: np.asarray(value) for name, value in rows[0].items()}
        numeric = [name for name, value in first.items() if value.dtype.kind in "biuf"]
        labels = [name for name in LABELS if name in numeric]
        self.left_out = tuple(name for name in first if name not in numeric)
        self.label = labels[0] if labels else None
        self._inputs = tuple(name for name in numeric if name not in labels[:1])
        if not self._inputs:
            got = f"columns {', '.join(first)}"
            raise bad("a table has columns of numbers", got, where, "encode text with a tokenizer")
        self.rows = rows.with_format("numpy", columns=[*self._inputs, *labels[:1]])
        self.first = first

    def __len__(self) -> int:
        return self.total

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are inputs."""
        return self._inputs

    @property
    def has_labels(self) -> bool:
        """Whether one of the columns is the target."""
        return self.label is not None

    @property
    def hashed_whole(self) -> bool:
        """Whether the table is small enough."""
        return int(self.rows.data.nbytes) <= _HASHED_WHOLE

    def select(self, positions: Tensor, view: View | None = None) -> Split:
        """The samples at the positions int64 `[k]`, in that order.

        Raises:
            CompresscError: CC302 where rows are of several shapes, CC300 for NaN.
        """
        index = positions.tolist()
        with reading("CC302", "rows of the data set can be read", self.where):
            found = self.rows[index]
        columns = [self._column(found, name, index) for name in self.names]
        inputs = tuple(to_tensor(column, self.where) for column in columns)
        labels = None
        if self.label is not None:
            column = self._column(found, self.label, index)
            labels = to_labels(column, f"the labels of {self.where}")
        check_values(inputs, labels, self.where)
        return Split.of(inputs, labels)

    def all_labels(self) -> Tensor | None:
        """The column of the target, where each is one number."""
        if self.label is None or self.first[self.label].ndim:
            return None
        column = np.asarray(self.rows[self.label])
        return to_labels(column, f"the labels of {self.where}")

    def identify(self, part: str, digest: Digest) -> None:
        """All rows of a small table, some of a large one."""
        digest.update(f"{part}:{self.total}:{self.names}:{self.label}:".encode())
        if not self.hashed_whole:
            digest.update(str(getattr(self.rows, "_fingerprint", "")).encode())
        spread = np.unique(np.linspace(0, self.total - 1, _SAMPLED).astype(np.int64))
        chosen = torch.arange(self.total) if self.hashed_whole else torch.from_numpy(spread)
        for positions in torch.split(chosen, _ROWS):
            batch = self.select(positions)
            for tensor in (*batch.inputs, *([] if batch.labels is None else [batch.labels])):
                digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
                digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)

    def _column(self, found: Any, name: str, index: list[int]) -> Array:
        values, fill = found[name], self._fill(name)
        wanted = self.first[name].shape
        for value, position in zip(values, index, strict=True):
            if np.shape(value)[fill is not None :] != wanted[fill is not None :]:
                raise CompresscError(
                    "CC302",
                    f"column '{name}' is like its first row, {list(wanted)}",
                    got=str(list(np.shape(value))),
                    where=f"{self.where}, sample {position}",
                    hint="pad the rows, or give a DataLoader whose collate_fn does",
                )
        if fill is None:
            return np.asarray(values)
        return joined([torch.from_numpy(np.array(value)) for value in values], fill).numpy()

    def _fill(self, name: str) -> int | None:
        """What fills up the rows of a column that are shorter than others; None for nothing."""
        if not self.first[name].ndim or self.first[name].dtype.kind not in "iu":
            return None
        padded = filling(name, self._inputs, None)
        return NO_LABEL if padded is not None and name == self.label else padded
