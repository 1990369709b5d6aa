"""`Split` and `Dataset`: samples in memory, checked once when they are made.

The protocol for data from elsewhere: any object with the attributes `train`, `calibration` and
`test`, each a `Split` or a pair `(inputs, labels)`. `inputs` is one array or a tuple of arrays (one
for each input of the model), `labels` an array of integers or floats, or None; arrays are tensors
or numpy arrays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from compressc.data.arrays import bad, to_labels, to_tensor
from compressc.data.checks import check_alike, check_labels, check_samples, check_values

PARTS = ("train", "calibration", "test")


@dataclass(frozen=True, eq=False)
class Split:
    """Samples of one part of a data set.

    Args:
        inputs: one tensor `[n, ...]` for each input of the model.
        labels: class indices `[n, ...]` of any integer dtype (kept as int64), where `-100` marks a
            position that has no label; targets of any float dtype (kept as float32); or None.

    Raises:
        CompresscError: CC300 where the tensors do not fit together.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        check_samples(self.inputs, "Split")
        if self.labels is not None:
            labels = to_labels(self.labels, "the labels of a Split")
            check_labels(labels, len(self), "Split")
            object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return int(self.inputs[0].shape[0])

    def take(self, n: int) -> Split:
        """The first `n` samples, or all where there are fewer (views, no copy)."""
        labels = None if self.labels is None else self.labels[:n]
        return Split(tuple(x[:n] for x in self.inputs), labels)

    def select(self, index: Tensor) -> Split:
        """The samples at the positions `index` (int64 `[k]`), in that order (a copy)."""
        labels = None if self.labels is None else self.labels[index]
        return Split(tuple(x[index] for x in self.inputs), labels)

    def batches(
        self, size: int, generator: torch.Generator | None = None, drop_last: bool = False
    ) -> Iterator[Split]:
        """Batches of `size` samples; the last may be smaller, unless `drop_last`.

        Args:
            size: samples in a batch, at least 1.
            generator: a CPU generator; where given, the order is shuffled by it.
            drop_last: leave out a last batch of fewer than `size` samples.
        """
        if size < 1:
            raise ValueError(f"a batch holds at least one sample, not {size}")
        total = len(self)
        order = None if generator is None else torch.randperm(total, generator=generator)
        stop = total - total % size if drop_last else total
        for start in range(0, stop, size):
            if order is not None:
                yield self.select(order[start : start + size].to(self.inputs[0].device))
                continue
            part = slice(start, start + size)
            labels = None if self.labels is None else self.labels[part]
            yield Split(tuple(x[part] for x in self.inputs), labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits: `train` to learn from, `calibration` for ranges, `test` to be judged by.

    `calibration` may be a part of `train`; `test` must not be.

    Raises:
        CompresscError: CC300 where the splits do not fit together, hold NaN or infinity, or hold
            a label that is no class index.
    """

    name: str
    train: Split
    calibration: Split
    test: Split

    def __post_init__(self) -> None:
        for part in PARTS:
            split, where = getattr(self, part), f"{self.name}.{part}"
            check_values(split.inputs, split.labels, where)
            check_alike(split.inputs, self.train.inputs, where)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) over the shapes, dtypes and bytes of every tensor; not over the name."""
        digest = hashlib.sha256()
        for part in PARTS:
            split: Split = getattr(self, part)
            labels = () if split.labels is None else (split.labels,)
            digest.update(f"{part}:{len(split.inputs)}:{len(labels)};".encode())
            for tensor in (*split.inputs, *labels):
                digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
                flat = tensor.detach().cpu().contiguous().reshape(-1)
                digest.update(flat.view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def cast(self, change: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]) -> Dataset:
        """The same samples with inputs in other dtypes; itself where nothing changes."""
        splits: dict[int, Split] = {}
        for split in (self.train, self.calibration, self.test):
            inputs = change(split.inputs)
            same = all(new is old for new, old in zip(inputs, split.inputs, strict=True))
            splits.setdefault(id(split), split if same else Split(inputs, split.labels))
        parts = [splits[id(getattr(self, part))] for part in PARTS]
        if all(split is getattr(self, part) for split, part in zip(parts, PARTS, strict=True)):
            return self
        return Dataset(self.name, *parts)

    @property
    def has_labels(self) -> bool:
        """Whether both `train` and `test` carry labels."""
        return self.train.labels is not None and self.test.labels is not None


def as_dataset(obj: object, name: str) -> Dataset:
    """Make a `Dataset` of any object that follows the protocol at the head of this module.

    Args:
        obj: a `Dataset` (returned as it is), or an object with `train`, `calibration` and `test`.
        name: what to call it in errors and reports.

    Raises:
        CompresscError: CC300 where the object does not follow the protocol.
    """
    if isinstance(obj, Dataset):
        return obj
    missing = [part for part in PARTS if not hasattr(obj, part)]
    if missing:
        raise bad(
            "a data set has the attributes train, calibration and test",
            f"{type(obj).__name__} without {', '.join(missing)}",
            name,
            "return compressc.data.Dataset(name, train, calibration, test)",
        )
    parts = [_as_split(getattr(obj, part), f"{name}.{part}") for part in PARTS]
    return Dataset(name, *parts)


def _as_split(value: object, where: str) -> Split:
    if isinstance(value, Split):
        return value
    if not (isinstance(value, tuple) and len(value) == 2):
        raise bad(
            "each part of a data set is a Split or a pair (inputs, labels)",
            type(value).__name__ + (f" of {len(value)}" if isinstance(value, tuple) else ""),
            where,
            "labels may be None",
        )
    inputs, labels = value
    if not isinstance(inputs, tuple | list):
        inputs = (inputs,)
    tensors = tuple(to_tensor(x, f"{where}, input {i}") for i, x in enumerate(inputs))
    check_samples(tensors, where)
    if labels is None:
        return Split(tensors)
    classes = to_labels(labels, f"the labels of {where}")
    check_labels(classes, int(tensors[0].shape[0]), where)
    return Split(tensors, classes)
