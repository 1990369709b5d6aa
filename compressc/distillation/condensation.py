"""A few samples that teach what many do (group `compressc.condensations`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from compressc.distillation.synthesis import Making
from compressc.plugins import CONDENSATIONS, Group
from compressc.spec import Configured, parse


class Condensation(Configured, ABC):
    """A way to make or choose samples. Subclass it, and name the class as an entry point."""

    entry_points: ClassVar[Group] = CONDENSATIONS

    @abstractmethod
    def make(self, inputs: Tensor, labels: Tensor, per_class: int, making: Making) -> Tensor:
        """So many samples of each class, class by class, `[classes * per_class, ...]`, on the CPU.

        Args:
            inputs: of all samples, f32[n, ...].
            labels: their classes i64[n], from 0 on, `per_class` of each at least.
            per_class: how many.
            making: seed, device, store, and whom to tell.
        """


def parse_condensation(text: str) -> Condensation:
    """Read `matching` or `matching(steps=500)`.

    Raises:
        CompresscError: see `compressc.spec.parse`.
    """
    return parse(Condensation, text)  # type: ignore[type-abstract]


def drawn_of_each(labels: Tensor, per_class: int, seed: int) -> Tensor:
    """Positions of samples drawn at random, so many of each class, class by class; i64[k]."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for label in range(int(labels.max()) + 1):
        there = torch.nonzero(labels == label).flatten()
        found.append(there[torch.randperm(len(there), generator=draw)[:per_class]])
    return torch.cat(found)
