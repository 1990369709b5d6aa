"""How many threads torch computes with, for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import _pytree as pytree

from compressc.backend.backend import Runner


def torch_runner(module: Callable[..., Any], threads: int) -> Runner:
    """What torch loaded as a function: without gradients, on so many threads, outputs in a row."""

    def run(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch_threads(threads), torch.no_grad():
            return tuple(pytree.tree_leaves(module(*inputs)))

    return run


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Inside, torch computes with that many threads; afterwards with as many as before."""
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
