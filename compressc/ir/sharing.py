"""Weights that several graphs share until one of them is written.

A run keeps the teacher, a graph for each pass and a working copy, which differ in few weights.
torch counts the storages that are clones of each other and gives one its own bytes when anything
asks for them to write (`c10::impl::cow`); reading operators do not. `numpy()` and `data_ptr()` ask
to write, so bytes that are only read are read by `bytes_of`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

#: Bytes that are read at a time.
_PIECE = 1 << 22


def shared(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of its own, detached; it takes no memory until it or the other is written.

    Plain tensors on the CPU that are all of their storage; others are copied: a part would keep the
    whole alive, and a mapped file or a numpy array cannot be counted.
    """
    tensor = tensor.detach()
    if _whole(tensor):
        try:
            return torch._lazy_clone(tensor)  # type: ignore[no-any-return]
        except RuntimeError:  # a storage that torch did not allocate
            pass
    return tensor.clone()


def bytes_of(tensor: torch.Tensor) -> Iterator[memoryview]:
    """The bytes of a contiguous tensor on the CPU, in pieces; a shared one stays shared."""
    flat = tensor.detach().reshape(-1).view(torch.uint8)
    is_shared = torch._C._is_cow_tensor(flat)  # type: ignore[attr-defined]
    for piece in flat.split(_PIECE):
        yield (piece.clone() if is_shared else piece).numpy().data


def _whole(tensor: torch.Tensor) -> bool:
    plain = type(tensor) is torch.Tensor and tensor.layout is torch.strided
    if not plain or tensor.device.type != "cpu" or tensor.is_quantized:
        return False
    return tensor.nbytes == tensor.untyped_storage().nbytes()
