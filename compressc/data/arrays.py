"""A user's arrays become tensors of the dtypes that models take, or an error that says why not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from compressc.errors import CompresscError

#: An array of any dtype.
Array = np.ndarray[Any, np.dtype[Any]]


#: Bytes of the header of a `.npy` file.
_MOST_HEADER = 10_000


def bad(wanted: str, got: str, where: str, hint: str) -> CompresscError:
    """A CC300 error."""
    return CompresscError("CC300", wanted, got=got, where=where, hint=hint)


@dataclass(frozen=True)
class Header:
    """What a `.npy` file declares.

    Attributes:
        shape, dtype: of the array.
        columns_first: whether the first dimension varies fastest in the file.
        offset: where the numbers begin.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    columns_first: bool
    offset: int


def read_header(file: IO[bytes], size: int, where: str, hint: str) -> Header:
    """The header of a `.npy` file.

    Args:
        file: at its beginning; afterwards where the numbers begin.
        size: bytes of the whole file.
        where, hint: for errors.

    Raises:
        CompresscError: CC300 for another format, other things than numbers, or another size than
            what is declared.
        ValueError: where it is no such file.
    """
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise bad("an array of format 1.0 or 2.0", str(version), where, hint)
    shape, columns_first, dtype = read(file, max_header_size=_MOST_HEADER)
    offset = file.tell()
    check_numeric(dtype, where)
    declared = offset + math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or declared != size:
        got = f"{size:,} bytes, where {list(shape)} of {dtype} takes {declared:,}"
        raise bad("an array has the size that it declares", got, where, hint)
    return Header(shape, dtype, columns_first and len(shape) > 1, offset)


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
    check_numeric(value.dtype, where)
    with np.errstate(over="ignore"):  # infinities are found, and named, later
        array = value.astype(model_dtype(value.dtype), copy=False)
    # a copy where the array is read-only, because torch would warn of undefined behaviour
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def check_numeric(dtype: np.dtype[Any], where: str) -> None:
    """Arrays hold numbers, not text and never Python objects.

    Raises:
        CompresscError: CC300.
    """
    if dtype.hasobject:
        hint = "pickle can run code: save numeric arrays with numpy.savez"
        raise bad("arrays hold numbers", "pickled Python objects", where, hint)
    if dtype.kind not in "biuf" or dtype.shape:
        hint = "encode text and objects as integers first"
        raise bad("arrays hold numbers", f"dtype {dtype}", where, hint)


def model_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What a numeric dtype becomes: see `to_tensor`."""
    if dtype.kind == "f":
        return np.dtype(np.float16 if dtype.itemsize == 2 else np.float32)
    if dtype.kind == "u" and dtype.itemsize > 1:
        return np.dtype(np.int64)
    return dtype.newbyteorder("=")


def as_targets(value: object, where: str) -> Any:
    """`to_labels` of a tensor or array, or of each in a tree of tuples, lists and dicts."""
    return pytree.tree_map(lambda leaf: to_labels(leaf, where), value)


def to_labels(value: object, where: str) -> Tensor:
    """Labels `[n, ...]`: integers as int64, other numbers as float32.

    Integers are class indices, ids or answers of yes (1) and no (0); floats are targets that are
    numbers. Which they are depends on the model: see `compressc.tasks.settle`.

    Raises:
        CompresscError: CC300 where `value` does not hold real numbers.
    """
    tensor = to_tensor(value, where)
    if tensor.is_complex():
        got = f"dtype {str(tensor.dtype).removeprefix('torch.')}"
        raise bad("labels are class indices or real numbers", got, where, "give them as floats")
    return tensor.to(torch.float32 if tensor.is_floating_point() else torch.int64)
