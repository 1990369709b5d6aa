"""Several processes at one run, as `torchrun -m compressc model.pt ...` starts them.

Each does all of the run and comes to the same graph; the steps of a training are shared: every
process takes its part of each batch, and the gradients are averaged. The main one alone writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class _State:
    """Of this process; alone until `joined`."""

    world = 1
    rank = 0


def world() -> int:
    """How many processes there are."""
    return _State.world


def rank() -> int:
    """The number of this one, from 0."""
    return _State.rank


def is_main() -> bool:
    """Whether this is the process that writes."""
    return _State.rank == 0


@contextmanager
def joined(device: str) -> Iterator[bool]:
    """Inside, the processes that torchrun started together know of each other.

    Gives whether this is the main one.

    Args:
        device: `cpu`, where they talk by gloo, or `cuda`, where each has a device of its own.
    """
    if not torch.distributed.is_torchelastic_launched():
        yield True
        return
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu")
    if device == "cpu":
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    _State.world, _State.rank = state.num_processes, state.process_index
    try:
        yield is_main()
    finally:
        leave()


def leave() -> None:
    """Know of no other process any more: what comes now each does by itself."""
    if _State.world > 1:
        _State.world, _State.rank = 1, 0
        torch.distributed.destroy_process_group()


def of_main(value: T) -> T:
    """What the main process has; every process calls this at the same place."""
    if _State.world == 1:
        return value
    held: list[Any] = [value]
    torch.distributed.broadcast_object_list(held, src=0)
    found: T = held[0]
    return found


def average(tensors: Sequence[Tensor]) -> None:
    """Put the mean over the processes into each tensor; all have as many, of the same shapes."""
    if _State.world == 1 or not tensors:
        return
    flat = torch.cat([tensor.detach().flatten().float() for tensor in tensors])
    torch.distributed.all_reduce(flat)
    flat /= _State.world
    sizes = [tensor.numel() for tensor in tensors]
    with torch.no_grad():
        for tensor, mean in zip(tensors, torch.split(flat, sizes), strict=True):
            tensor.copy_(mean.view_as(tensor))
