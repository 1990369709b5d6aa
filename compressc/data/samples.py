"""What one sample of a user's data set is: inputs by order or by name, and what is right of it.

`x`, `(x,)` or `(x0, x1, None)` are inputs alone; of a tuple of more the last item is the target:
`(x, y)`, `(x0, x1, y)`, `((x0, x1), y)`. A dict holds inputs by name, and the target as `y`,
`label`, `labels`, `target` or `targets`; `({"a": a, "b": b}, y)` is the same. Lists and numbers are
arrays; tuples and dicts within a target are a tree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from compressc.data.arrays import bad, to_tensor
from compressc.data.keys import LABELS


@dataclass(frozen=True)
class Sample:
    """One sample, or a batch of them: tensors.

    Attributes:
        inputs: one for each input of the model.
        target: a tensor, a tree of them, or None.
        names: of the inputs, where they go by name.
    """

    inputs: tuple[Tensor, ...]
    target: Any
    names: tuple[str, ...] | None

    @property
    def leaves(self) -> list[Tensor]:
        """All tensors, the inputs first."""
        return [*self.inputs, *([] if self.target is None else pytree.tree_leaves(self.target))]

    @property
    def form(self) -> tuple[Any, ...]:
        """What all samples have in common: names, the tree of the target, dtypes and shapes."""
        tree = None if self.target is None else pytree.tree_structure(self.target)
        leaves = tuple((leaf.dtype, tuple(leaf.shape)) for leaf in self.leaves)
        return self.names, len(self.inputs), tree, leaves


def laid_out(value: Any) -> tuple[Any, Any]:
    """(inputs: a tuple, or a dict by name; target or None) of what a user gives for samples."""
    if isinstance(value, Mapping):
        labels = [name for name in LABELS if name in value]
        named = {str(name): item for name, item in value.items() if name not in labels}
        if len(labels) > 1:
            raise bad("a sample has one target", " and ".join(labels), "", "leave one out")
        return named, value[labels[0]] if labels else None
    if isinstance(value, tuple | list):
        *inputs, target = value if len(value) > 1 else (*value, None)
        first = inputs[0] if len(inputs) == 1 else None
        if isinstance(first, Mapping):
            return {str(name): item for name, item in first.items()}, target
        several = isinstance(first, tuple | list) and not _is_array(first)
        return tuple(first or ()) if several else tuple(inputs), target
    return (value,), None


def _is_array(value: Any) -> bool:
    """Whether a list holds the numbers of one array."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], int | float)


def sample_of(value: Any, where: str) -> Sample:
    """What a data set returned, as tensors.

    Raises:
        CompresscError: CC300 for what holds no numbers.
    """
    inputs, target = laid_out(_listed_numbers(value))
    names = tuple(inputs) if isinstance(inputs, Mapping) else None
    items = inputs.values() if isinstance(inputs, Mapping) else inputs
    labels = [f"input '{name}'" for name in names] if names else map("input {}".format, range(99))
    tensors = tuple(tensor_of(x, f"{where}, {n}") for x, n in zip(items, labels, strict=False))
    if target is not None:
        target = tree_of(target, f"{where}, target")
    return Sample(tensors, target, names)


def _listed_numbers(value: Any) -> Any:
    """A list of numbers is one input, not so many."""
    return (value,) if _is_array(value) else value


def tree_of(value: Any, where: str) -> Any:
    """A target: tuples and dicts are a tree, everything else is an array."""
    if isinstance(value, Mapping):
        return {str(name): tree_of(item, f"{where} {name!r}") for name, item in value.items()}
    if isinstance(value, tuple):
        return tuple(tree_of(item, f"{where} {i}") for i, item in enumerate(value))
    return tensor_of(value, where)


def tensor_of(value: Any, where: str) -> Tensor:
    """A number, a list of numbers, an array or a tensor as a tensor.

    Raises:
        CompresscError: CC300 for anything else.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Sequence) and value and isinstance(value[0], Tensor):
        return torch.stack(list(value))
    if not isinstance(value, np.ndarray | np.generic | int | float | Sequence) or not _even(value):
        got = type(value).__name__
        raise bad("samples hold numbers", got, where, "return tensors, arrays or numbers")
    return to_tensor(np.asarray(value), where)


def _even(value: Any) -> bool:
    """Whether numpy makes one array of it: lists of lists may be of several lengths."""
    try:
        np.asarray(value)
    except ValueError:
        return False
    return True
