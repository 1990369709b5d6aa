"""Keeping the best state of a module."""

from __future__ import annotations

import math

import torch
from torch import nn

#: Higher is better. A tuple is compared from its first number on: (accuracy, -loss), say.
Score = float | tuple[float, ...]


class BestState:
    """The parameters and buffers a module had when it scored best.

    The copy lives on the module's device: one more set of weights.

    Attributes:
        score: the best finite score so far, None before there is one.
        epoch: when that was, counted from 1; 0 is the start.
    """

    def __init__(self, module: nn.Module) -> None:
        self.score: tuple[float, ...] | None = None
        self.epoch = 0
        self._module = module
        self._state: dict[str, torch.Tensor] = {}

    def offer(self, score: Score, epoch: int) -> bool:
        """Keep the state where the score is finite and above all before; equal ones stay first."""
        numbers = score if isinstance(score, tuple) else (score,)
        if not all(map(math.isfinite, numbers)):
            return False
        if self.score is not None and numbers <= self.score:
            return False
        self.score, self.epoch = numbers, epoch
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                if name in self._state:  # in place: two copies would be held at a time
                    self._state[name].copy_(tensor)
                else:
                    self._state[name] = tensor.detach().clone()
        return True

    def restore(self) -> None:
        """Write the best state back in place; nothing happens where there is none."""
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                if name in self._state:
                    tensor.copy_(self._state[name])

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Not `state_dict`: that leaves out the buffers a module declares non-persistent."""
        return {**dict(self._module.named_parameters()), **dict(self._module.named_buffers())}
