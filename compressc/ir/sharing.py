"""Weights that several graphs share until one of them is written.

A run keeps the teacher, a graph for each pass and a working copy, which differ in few weights.
torch counts the storages that are clones of each other and gives one its own bytes when anything
asks for them to write (`c10::impl::cow`); reading operators do not. `numpy()` and `data_ptr()` ask
to write, so bytes that are only read are read by `bytes_of`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

#: Bytes that are read at a time.
_PIECE = 1 << 20


def shared(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of its own, detached; it takes no memory until it or the other is written.

    Plain tensors on the CPU that are all of their storage; others are copied: a part would keep the
    whole alive, a mapped file or a numpy array cannot be counted, and what `torch.load` has read
    has no allocator to take new bytes from: a write would end the process.
    """
    tensor = tensor.detach()
    if _whole(tensor):
        try:
            return torch._lazy_clone(tensor)
        except RuntimeError:  # a storage that torch did not allocate
            pass
    return tensor.clone()


def copied(tensor: torch.Tensor, memo: dict[int, Any]) -> torch.Tensor:
    """`copy.deepcopy(tensor, memo)`, sharing the bytes."""
    if id(tensor) not in memo:
        twin = shared(tensor)
        if isinstance(tensor, nn.Parameter):
            twin = nn.Parameter(twin, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = twin
    found: torch.Tensor = memo[id(tensor)]
    return found


@contextmanager
def copies_share() -> Iterator[None]:
    """Inside, `copy.deepcopy` of a module shares the weights, too: for libraries that copy one."""
    before = torch.Tensor.__deepcopy__, nn.Parameter.__deepcopy__
    torch.Tensor.__deepcopy__ = _deepcopy(before[0])  # type: ignore[method-assign]
    nn.Parameter.__deepcopy__ = _deepcopy(before[1])  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.__deepcopy__, nn.Parameter.__deepcopy__ = before  # type: ignore[method-assign]


def address(tensor: torch.Tensor) -> int:
    """Where the bytes are; `data_ptr()` would give a shared tensor its own first."""
    return torch._C._data_address(tensor)  # type: ignore[attr-defined,no-any-return]


def bytes_of(tensor: torch.Tensor) -> Iterator[memoryview]:
    """The bytes of a contiguous tensor on the CPU, in pieces, each valid until the next one.

    They are copied: `numpy()` would give a shared tensor bytes of its own, and keep any from being
    shared from then on, since an array may hold its address.
    """
    flat = tensor.detach().reshape(-1).view(torch.uint8)
    buffer = torch.empty(min(_PIECE, len(flat)), dtype=torch.uint8)
    for piece in torch.split(flat, _PIECE) if len(flat) else ():
        yield buffer[: len(piece)].copy_(piece).numpy().data


def _whole(tensor: torch.Tensor) -> bool:
    plain = type(tensor) is torch.Tensor and tensor.layout is torch.strided
    if not plain or tensor.device.type != "cpu" or tensor.is_quantized:
        return False
    storage = tensor.untyped_storage()
    return storage.resizable() and tensor.nbytes == storage.nbytes()


def _deepcopy(ordinary: Any) -> Any:
    def deepcopy(tensor: torch.Tensor, memo: dict[int, Any]) -> torch.Tensor:
        plain = type(tensor) in (torch.Tensor, nn.Parameter) and tensor.is_leaf
        return copied(tensor, memo) if plain else ordinary(tensor, memo)

    return deepcopy
