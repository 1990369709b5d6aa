"""What a run learns from, calibrates with and is judged by: a source of samples, not arrays.

Nobody takes a whole part of the data into memory: it may be larger than that. A part is read in
batches (`batches`, `stream`), or a few of its samples are taken (`take`, `select`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class View:
    """One way to look at every sample: what augmentation does is a function of it and the sample.

    Attributes:
        seed: of the run.
        number: the epoch; or the epoch modulo K, where there are K views of each sample.
    """

    seed: int
    number: int


#: Positions int64 `[k]`, and the view of the samples there; None for samples as they are.
Request = tuple[Tensor, View | None]


class Batch(Protocol):
    """Samples in memory; `compressc.data.Split` is one."""

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The model's inputs, `[k, ...]` each."""

    @property
    def labels(self) -> Any:
        """What is right of each sample: a tensor `[k, ...]` or a tree of them; None for none."""

    def __len__(self) -> int: ...

    def to(self, device: torch.device) -> Batch:
        """The same samples on a device."""


class Samples(Protocol):
    """One part of a data set; `compressc.data.Source` is the class to build one on."""

    @property
    def has_labels(self) -> bool:
        """Whether a batch has labels."""

    @property
    def has_views(self) -> bool:
        """Whether a sample differs from view to view."""

    @property
    def identity(self) -> str:
        """Hash of what the samples are."""

    def __len__(self) -> int: ...

    def select(self, positions: Tensor, view: View | None = None) -> Batch:
        """The samples at the positions int64 `[k]`, in that order."""

    def stream(self, requests: Iterable[Request]) -> Iterator[Batch]:
        """`select` for one request after another, read ahead where samples take time to make.

        A whole run of training is one call: worker processes are started once for it.
        """

    def take(self, n: int) -> Batch:
        """The first `n` samples, or all where there are fewer."""

    def batches(self, size: int) -> Iterator[Batch]:
        """All samples in order, `size` at a time; the last batch may have fewer."""

    def cast(self, change: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]) -> Samples:
        """The same samples with inputs in other dtypes or places."""

    def subset(self, positions: Tensor) -> Samples:
        """The samples at the positions int64 `[k]` as a source of their own."""

    def all_labels(self) -> Tensor | None:
        """Labels `[n, ...]` of all samples where they are one tensor that costs little, or None."""


class TransferSet(Protocol):
    """The data a run has; `compressc.data.Dataset` is one."""

    @property
    def train(self) -> Samples:
        """What passes may fit weights to."""

    @property
    def calibration(self) -> Samples:
        """What passes may observe activations on."""

    @property
    def validation(self) -> Samples | None:
        """What choices are made by, where the data have such a part; else a share of `train` is."""

    @property
    def test(self) -> Samples:
        """What no pass may look at: the report is measured on it."""

    @property
    def fingerprint(self) -> str:
        """Hash of all of it."""
