"""Real samples that stand for all: what condensed ones are held against."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from compressc.distillation import Condensation, Making, drawn_of_each


class RandomSamples(Condensation):
    """Real samples, drawn at random from each class."""

    name: ClassVar[str] = "random"

    def make(self, inputs: Tensor, labels: Tensor, per_class: int, making: Making) -> Tensor:
        """See `Condensation`."""
        return inputs[drawn_of_each(labels, per_class, making.seed)]


class Herding(Condensation):
    """Real samples whose mean comes nearest to that of their class, one after another.

    Each time the one with which the mean of those that are taken is nearest (Welling 2009; as
    Rebuffi et al. 2017, arXiv 1611.07725, algorithm 4, on the inputs themselves). No seed: the same
    samples each time.
    """

    name: ClassVar[str] = "herding"

    def make(self, inputs: Tensor, labels: Tensor, per_class: int, making: Making) -> Tensor:
        """See `Condensation`."""
        found = []
        for label in range(int(labels.max()) + 1):
            there = inputs[labels == label]
            found.append(there[herded(there.flatten(1).double(), per_class)])
        return torch.cat(found)


def herded(rows: Tensor, count: int) -> Tensor:
    """Positions of so many rows f64[n, d], i64[count], in the order in which they are taken."""
    mean, total = rows.mean(0), torch.zeros(rows.shape[1], dtype=rows.dtype)
    left = torch.ones(len(rows), dtype=torch.bool)
    taken = []
    for number in range(1, count + 1):
        far = ((total + rows) / number - mean).pow(2).sum(1)
        best = int(far.masked_fill(~left, torch.inf).argmin())
        taken.append(best)
        left[best] = False
        total = total + rows[best]
    return torch.tensor(taken)
