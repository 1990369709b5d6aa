"""Inputs as what is trained: what makes samples has this in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from compressc.distillation import Making
from compressc.training import Hooks, Moment


class Canvas(nn.Module):
    """The inputs of samples as a parameter.

    Args:
        start: what they begin as, `[n, ...]`.
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.inputs = nn.Parameter(start)

    def forward(self) -> Tensor:
        """All of them, `[n, ...]`."""
        return self.inputs


def noise(size: int, shape: Sequence[int], seed: int) -> Tensor:
    """Samples of a normal distribution, `[size, *shape]`."""
    return torch.randn(size, *shape, generator=torch.Generator().manual_seed(seed))


class Repeated:
    """The same batch in each step."""

    def __init__(self, steps: int, batch: Tensor) -> None:
        self.steps, self.batch = steps, batch

    def __len__(self) -> int:
        return self.steps

    def epoch(self, seed: int, number: int, start: int = 0) -> Iterator[Tensor]:
        """It, for the steps that are left."""
        return (self.batch for _ in range(start, self.steps))


class Numbers:
    """The number of each step: what a step draws is a function of it, so that runs go on."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def epoch(self, seed: int, number: int, start: int = 0) -> Iterator[Tensor]:
        """From `start` on."""
        return map(torch.tensor, range(start, self.steps))


class Told(Hooks):
    """Progress of what is made.

    Args:
        making: told of it.
        what: in words.
    """

    def __init__(self, making: Making, what: str) -> None:
        self.making, self.what = making, what

    def stepped(self, moment: Moment) -> None:
        """See `Hooks`."""
        self.making.progress(self.what, moment.step, moment.steps)
