"""`Split`: samples in memory, a batch or a whole part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from compressc.data.arrays import as_targets
from compressc.data.checks import check_samples, check_targets
from compressc.data.source import Change, Digest, Inputs, Source, in_order, same
from compressc.pipeline import View

#: Bytes up to which a change is made at once, and not batch by batch.
READ_AHEAD = 1 << 26


@dataclass(frozen=True, eq=False)
class Split(Source):
    """Samples in memory.

    Args:
        inputs: one tensor `[n, ...]` for each input of the model.
        labels: class indices `[n, ...]` of any integer dtype (kept as int64), where `-100` marks a
            position that has no label; targets of any float dtype (kept as float32); a tree of such
            tensors (tuples, lists, dicts), for tasks that know what to make of it; or None.
        names: of the inputs, where they go by name.

    Raises:
        CompresscError: CC300 where the tensors do not fit together.
    """

    inputs: tuple[Tensor, ...]
    labels: Any = None
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_samples(self.inputs, "Split")
        if self.labels is not None:
            labels = as_targets(self.labels, "the labels of a Split")
            check_targets(labels, len(self), "Split")
            object.__setattr__(self, "labels", labels)

    def with_inputs(self, inputs: Inputs) -> Split:
        """The same labels with other inputs."""
        return Split.of(inputs, self.labels)

    @classmethod
    def of(
        cls, inputs: tuple[Tensor, ...], labels: Any, names: tuple[str, ...] | None = None
    ) -> Split:
        """Rows of what was checked: they are not looked at once more."""
        made = object.__new__(cls)
        object.__setattr__(made, "inputs", inputs)
        object.__setattr__(made, "labels", labels)
        object.__setattr__(made, "names", names)
        return made

    def __len__(self) -> int:
        return int(self.inputs[0].shape[0])

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        labels = [] if self.labels is None else pytree.tree_leaves(self.labels)
        return sum(tensor.nbytes for tensor in (*self.inputs, *labels))

    @property
    def has_labels(self) -> bool:
        """Whether there are labels."""
        return self.labels is not None

    def identify(self, part: str, digest: Digest) -> None:
        """Shapes, dtypes and bytes of every tensor."""
        labels, tree = pytree.tree_flatten(self.labels) if self.has_labels else ([], None)
        digest.update(f"{part}:{len(self.inputs)}:{len(labels)};".encode())
        if not isinstance(self.labels, Tensor | None):
            digest.update(str(tree).encode())
        for tensor in (*self.inputs, *labels):
            digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)

    def to(self, device: torch.device) -> Split:
        """The same samples on a device; itself where they are there."""
        if device.type == "cpu":
            return self
        inputs = tuple(x.to(device) for x in self.inputs)
        labels = pytree.tree_map_only(Tensor, lambda x: x.to(device), self.labels)
        return Split.of(inputs, labels, self.names)

    def cast(self, change: Change) -> Source:
        """The same samples with inputs in other dtypes; itself where nothing changes."""
        if self.nbytes > READ_AHEAD:
            return super().cast(change)
        inputs = change(self.inputs)
        names = self.names if len(inputs) == len(self.inputs) else None
        return self if same(inputs, self.inputs) else Split(inputs, self.labels, names)

    def take(self, n: int) -> Split:
        """The first `n` samples, or all where there are fewer (views, no copy)."""
        return self if n >= len(self) else self._rows(slice(n))

    def select(self, positions: Tensor, view: View | None = None) -> Split:
        """The samples at the positions int64 `[k]`, in that order (a copy)."""
        return self._rows(positions)

    def batches(self, size: int) -> Iterator[Split]:
        """All samples in order, `size` at a time (views, no copy)."""
        for positions in in_order(len(self), size):
            start = int(positions[0])
            yield self._rows(slice(start, start + size))

    def all_labels(self) -> Tensor | None:
        """The labels."""
        return self.labels if isinstance(self.labels, Tensor) else None

    def _rows(self, index: Tensor | slice) -> Split:
        def pick(tensor: Tensor) -> Tensor:
            return tensor[index if isinstance(index, slice) else index.to(tensor.device)]

        labels = None if self.labels is None else pytree.tree_map(pick, self.labels)
        return Split.of(tuple(map(pick, self.inputs)), labels, self.names)
