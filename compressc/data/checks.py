"""What the tensors of a split must be, and the errors where they are not (all CC300)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from compressc.data.arrays import bad
from compressc.errors import CompresscError

#: Label of a row that has none, as in torch's cross entropy.
NO_LABEL = -100

#: Numbers that are looked at together.
_BLOCK = 1 << 20


def check_samples(inputs: object, where: str) -> None:
    """Inputs are a non-empty tuple of tensors of one length, at least 1."""
    if not isinstance(inputs, tuple) or not inputs:
        got = type(inputs).__name__ if inputs != () else "an empty tuple"
        raise bad("the inputs of a split are a tuple of tensors", got, where, "write (x,)")
    for index, tensor in enumerate(inputs):
        if not isinstance(tensor, Tensor):
            got = f"{type(tensor).__name__} as input {index}"
            raise bad("the inputs of a split are tensors", got, where, "use torch.as_tensor")
    lengths = [int(x.shape[0]) if x.ndim else 0 for x in inputs]
    if min(lengths) < 1:
        raise bad("a split holds at least one sample", shapes(inputs), where, "give samples")
    if len(set(lengths)) > 1:
        raise _unequal(f"inputs of {' and '.join(map(str, lengths))} samples", where)


def check_labels(labels: Tensor, samples: int, where: str) -> None:
    """There is a label for each sample."""
    count = int(labels.shape[0]) if labels.ndim else 0
    if count != samples:
        raise _unequal(f"{count} labels for {samples} samples", where)


def check_targets(labels: Any, samples: int, where: str) -> None:
    """There is a label for each sample in every tensor of a tree."""
    for leaf in pytree.tree_leaves(labels):
        check_labels(leaf, samples, where)


def _unequal(got: str, where: str) -> CompresscError:
    wanted = "inputs and labels have the same number of samples"
    return bad(wanted, got, where, "the first dimension of every array counts the samples")


def check_values(inputs: tuple[Tensor, ...], labels: Any, where: str) -> None:
    """Inputs are finite, or a mask with -inf; labels are class indices, or finite targets."""
    for index, x in enumerate(inputs):
        _check_finite(x, "inputs", f"{where}, input {index}")
    for leaf in [] if labels is None else pytree.tree_leaves(labels):
        _check_label_values(leaf, where)


def _check_label_values(labels: Tensor, where: str) -> None:
    if labels.is_floating_point():
        _check_finite(labels, "labels", where)
        return
    negative = labels[(labels < 0) & (labels != NO_LABEL)]
    if len(negative):
        wanted = f"a label is a class index from 0 on ({NO_LABEL} for no label)"
        hint = "number the classes 0, 1, 2, ...; targets that are numbers are given as floats"
        raise bad(wanted, f"{int(negative[0])}", where, hint)


def _check_finite(x: Tensor, what: str, where: str) -> None:
    if not x.is_floating_point():
        return
    # by blocks: for all at once there would be a copy of all of them, and two masks
    rows = max(1, _BLOCK // max(1, x[0].numel()))
    blocks = torch.split(x, rows)
    wrong = sum(block.numel() - int(torch.isfinite(block).sum()) for block in blocks)
    if wrong and not (what == "inputs" and all(map(_only_takes_away, blocks))):
        got = f"{wrong} NaN or infinite values of {x.numel()}"
        raise bad(f"the {what} are finite numbers", got, where, "drop or fill these samples")


def _only_takes_away(x: Tensor) -> bool:
    """An additive mask: -inf where attention must not look, and nothing that is positive."""
    return bool((x <= 0).all())  # NaN is not


def check_alike(inputs: tuple[Tensor, ...], train: tuple[Tensor, ...], where: str) -> None:
    """Sizes may differ between splits (padded sequences), dtypes and ranks may not."""
    if [(x.dtype, x.ndim) for x in inputs] != [(x.dtype, x.ndim) for x in train]:
        raise bad(
            "all splits have the same inputs",
            f"{shapes(inputs)} and, in train, {shapes(train)}",
            where,
            "give the same number, dtype and rank of inputs in every split",
        )


def shapes(inputs: tuple[Tensor, ...]) -> str:
    """Dtypes and shapes for an error message: `float32[4, 1, 8, 8], int64[4]`."""
    return ", ".join(f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)}" for x in inputs)
