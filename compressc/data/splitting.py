"""Divide samples into two parts, the same way on every machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compressc.data.arrays import bad
from compressc.data.dataset import Dataset
from compressc.data.source import Source
from compressc.data.split import Split

#: Share of an undivided set that is its test part.
TEST_SHARE = 0.2
#: Bytes of a part that may be a copy of samples in memory.
COPIED = 1 << 26
#: Samples set apart for calibration where the data set names none.
CALIBRATION = 256


def divide(labels: Tensor | None, total: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Choose `count` of `total` positions, each class in proportion (largest remainder).

    Args:
        labels: class indices `[total]`; another shape, floats or None mean a plain random choice.
        total: number of samples.
        count: how many to choose, at most `total`.
        seed: of the order.

    Returns:
        The chosen positions `[count]` and the others `[total - count]`, int64, both shuffled.
    """
    # the legacy generator, because its stream is frozen: the split outlives numpy's versions
    order = np.random.RandomState(seed).permutation(total)
    if labels is None or labels.ndim != 1 or labels.is_floating_point():
        chosen = np.arange(total) < count
    else:
        chosen = _in_proportion(labels.cpu().numpy()[order], count)
    return torch.from_numpy(order[chosen]), torch.from_numpy(order[~chosen])


def _in_proportion(labels: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    """A mask over `labels` that holds for `count` entries: the first few of each class."""
    _, classes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    share = sizes * count / len(labels)
    quota = np.floor(share).astype(np.int64)
    quota[np.argsort(quota - share, kind="stable")[: count - quota.sum()]] += 1
    by_class = np.argsort(classes, kind="stable")
    rank = np.empty(len(labels), np.int64)
    rank[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen: np.ndarray[Any, Any] = rank < quota[classes]
    return chosen


def assemble(
    name: str, train: Source, test: Source, seed: int, others: Mapping[str, Source] | None = None
) -> Dataset:
    """A data set of parts.

    Calibration, where `others` has none, is up to 256 samples of `train`, each class in proportion.
    It is drawn from `train` and stays in it: calibration sees no sample that training may not.
    """
    others = dict(others or {})
    if "calibration" not in others:
        count = min(CALIBRATION, len(train))
        chosen, _ = divide(train.all_labels(), len(train), count, seed)
        others["calibration"] = _part(train, chosen)
    return Dataset(name, train, test=test, **others)


def assemble_parts(name: str, parts: Mapping[str, Source], seed: int) -> Dataset:
    """A data set of its parts by name; an undivided one, called `""`, is divided 80 : 20."""
    found = dict(parts)
    whole = found.pop("", None)
    if whole is not None:
        chosen, rest = divide(whole.all_labels(), len(whole), share_of(len(whole), name), seed)
        found |= {"train": _part(whole, rest), "test": _part(whole, chosen)}
    return assemble(name, found.pop("train"), found.pop("test"), seed, found)


def _part(whole: Source, positions: Tensor) -> Source:
    """Of little data a copy, which is quicker to read; of more, positions alone."""
    small = isinstance(whole, Split) and whole.nbytes * len(positions) <= COPIED * len(whole)
    return whole.select(positions) if small else whole.subset(positions)


def share_of(total: int, where: str) -> int:
    """How many samples of an undivided set are its test part.

    Raises:
        CompresscError: CC300 where there is but one.
    """
    if total < 2:
        hint = "give more, or x_train and x_test"
        raise bad("data to be divided hold two samples or more", str(total), where, hint)
    return max(1, round(total * TEST_SHARE))
