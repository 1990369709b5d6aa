"""Whole numbers that a module keeps in buffers, as constants while it is traced.

Audio codecs keep strides and kernel sizes so, and compute the padding of an input from them: a
trace takes a buffer for a value that is not known, and cannot say how long the padded input is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def has_whole_numbers(module: nn.Module) -> bool:
    """Whether there are any."""
    return any(_numbers(each) for each in module.modules())


@contextmanager
def as_constants(module: nn.Module) -> Iterator[None]:
    """Inside, every such buffer is made anew where it is read, which a trace sees the number of."""
    changed = [(each, type(each), found) for each in module.modules() if (found := _numbers(each))]
    buffers = [dict(each._buffers) for each, _, _ in changed]  # in the order of a state dict
    try:
        for each, kind, numbers in changed:
            for name in numbers:
                del each._buffers[name]
            each.__class__ = type(kind.__name__, (kind,), {n: _made(t) for n, t in numbers.items()})
        yield
    finally:
        for (each, kind, _), whole in zip(changed, buffers, strict=True):
            each.__class__ = kind
            each._buffers.clear()
            each._buffers.update(whole)


def _numbers(module: nn.Module) -> Mapping[str, Tensor]:
    """Those of this module alone, by name."""
    return {
        name: tensor
        for name, tensor in module._buffers.items()
        if tensor is not None and tensor.dim() == 0 and _whole(tensor.dtype)
    }


def _whole(dtype: torch.dtype) -> bool:
    return not dtype.is_floating_point and not dtype.is_complex


def _made(tensor: Tensor) -> property:
    number, dtype = tensor.item(), tensor.dtype

    def make(module: Any) -> Tensor:
        return torch.tensor(number, dtype=dtype)

    return property(make)
