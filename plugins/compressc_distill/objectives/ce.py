"""`ce`: what the labels say."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from torch import Tensor

from compressc.distillation import Objective, Reading, Seen, Unreduced


class CrossEntropy(Objective):
    """The loss of the task by the labels: cross entropy for classes, and what the task has else.

    Binary cross entropy for independent scores; for values the mean squared error over the variance
    of the teacher's, so that it is of the scale of `scaled_mse`. Samples without a label have no
    part in it; without any labels the term is left out.
    """

    name: ClassVar[str] = "ce"
    reads: ClassVar[frozenset[Reading]] = frozenset({"rows", "labels"})
    needs_labels: ClassVar[bool] = True
    formula: ClassVar[str] = "mean_i -log softmax(s_i)[y_i]"
    shift_free: ClassVar[bool] = True
    exempt: ClassVar[Mapping[str, str]] = MappingProxyType(
        dict.fromkeys(("minimum", "descent"), "the labels say what is right, not the teacher")
    )

    def __call__(self, seen: Seen) -> Unreduced:
        """A mean already: what is labelled is the task's to know."""
        return Unreduced("batch", [self.mean(seen)])

    def mean(self, seen: Seen) -> Tensor:
        """The loss of the task."""
        if seen.by_labels is None:
            raise ValueError("a loss by labels needs labels")
        return seen.by_labels.loss()

    def takes_largest(self, classes: int) -> bool:
        """Labels need no teacher."""
        return True
