"""Divide samples into two parts, the same way on every machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from compressc.data.dataset import Dataset
from compressc.data.source import Source

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


def assemble(name: str, train: Source, test: Source, seed: int) -> Dataset:
    """A data set whose calibration part is up to 256 samples of `train`, each class in proportion.

    It is drawn from `train` and stays in it: calibration sees no sample that training may not.
    """
    count = min(CALIBRATION, len(train))
    chosen, _ = divide(train.all_labels(), len(train), count, seed)
    return Dataset(name, train, train.select(chosen), test)
