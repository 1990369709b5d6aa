"""A moving average of the weights, which is judged and kept in place of the last ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The exponential moving average of parameters (Polyak and Juditsky 1992, with forgetting).

    Args:
        parameters: by name.
        buffers: by name; what a validation does to them is undone after it.
        decay: share of the average that stays in a step, 0 <= decay < 1. Early on less does,
            (1 + step) / (10 + step), so that it does not hang on to where it began.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        buffers: Mapping[str, Tensor],
        decay: float,
    ) -> None:
        self.parameters, self.buffers, self.decay = parameters, buffers, decay
        self.tensors = {name: p.detach().clone() for name, p in parameters.items()}

    def update(self, step: int) -> None:
        """Take in the weights after a step, counted from 1."""
        share = 1.0 - min(self.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                self.tensors[name].lerp_(parameter, share)

    def begin_anew(self) -> None:
        """Be the weights as they are."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                self.tensors[name].copy_(parameter)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the average is the weights."""
        live = {**self.parameters, **self.buffers}
        before = {name: tensor.detach().clone() for name, tensor in live.items()}
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.tensors[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in live.items():
                    tensor.copy_(before[name])
