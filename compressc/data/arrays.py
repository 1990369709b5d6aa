"""A user's arrays become tensors of the dtypes that models take, or an error that says why not."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from compressc.errors import CompresscError


def bad(wanted: str, got: str, where: str, hint: str) -> CompresscError:
    """A CC300 error."""
    return CompresscError("CC300", wanted, got=got, where=where, hint=hint)


def to_tensor(value: object, where: str) -> Tensor:
    """A tensor of `value`; the shape stays.

    A tensor keeps its dtype. Of numpy arrays, float64 (what numpy makes unasked) becomes float32,
    and unsigned integers wider than 8 bits become int64, since models take neither.

    Raises:
        CompresscError: CC300 where `value` is neither a tensor nor a numeric array.
    """
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, np.ndarray):
        got = type(value).__name__
        raise bad("data are tensors or numpy arrays", got, where, "use numpy.asarray")
    if value.dtype.kind not in "biuf":
        got = f"dtype {value.dtype}"
        raise bad("arrays hold numbers", got, where, "encode text and objects as integers first")
    array = value.astype(_dtype(value.dtype), copy=False)
    # a copy where the array is read-only, because torch would warn of undefined behaviour
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.kind == "f":
        return np.dtype(np.float16 if dtype.itemsize == 2 else np.float32)
    if dtype.kind == "u" and dtype.itemsize > 1:
        return np.dtype(np.int64)
    return dtype.newbyteorder("=")


def to_labels(value: object, where: str) -> Tensor:
    """Class indices as int64 `[n, ...]`.

    Raises:
        CompresscError: CC300 where `value` does not hold integers.
    """
    tensor = to_tensor(value, where)
    if tensor.is_floating_point() or tensor.is_complex():
        raise bad(
            "labels are integer class indices",
            f"dtype {str(tensor.dtype).removeprefix('torch.')}",
            where,
            'convert them with .astype("int64") or .long()',
        )
    return tensor.to(torch.int64)
