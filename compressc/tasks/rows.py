"""Tasks with one answer in each row of one output: classes, yes or no, numbers, directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from compressc.data.checks import NO_LABEL
from compressc.tasks.metric import AGREEMENT, Metric
from compressc.tasks.response import Kind, Response
from compressc.tasks.task import Task

if TYPE_CHECKING:
    import torchmetrics

    from compressc.tasks.settled import SettledTask


class RowTask(Task):
    """One output is judged, row by row; targets line up with its rows.

    Class variables:
        answers: kinds of output that it may judge.
        places: fewest and most dimensions of positions that a sample has beside its classes.
    """

    answers: ClassVar[tuple[Kind, ...]]
    places: ClassVar[tuple[int, int]] = (0, 99)

    def takes(self, reading: Response, shape: Sequence[Any]) -> bool:
        """Whether an output of that shape, read so, is this task's; open sizes are no numbers."""
        low, high = self.places
        return reading.kind in self.answers and low <= places_of(reading, shape) <= high

    def loss(self, settled: SettledTask, values: Mapping[str, Tensor], targets: Any) -> Tensor:
        """`row_loss` of the judged value's rows."""
        (rows,), labels = settled.split([values[settled.output]], targets)
        if labels is None:
            raise ValueError("a loss by targets needs targets")
        return self.row_loss(settled, rows, labels)

    def row_loss(self, settled: SettledTask, rows: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of rows `[n, v]` against labels, both of `SettledTask.split`.

        Cross entropy for class scores, binary cross entropy for independent scores, the mean
        squared error for values; 0 where nothing is labelled.
        """
        learned = settled.judged.learned
        known = torch.ones_like(labels).bool()
        if learned != "values" or not labels.is_floating_point():
            known = labels != NO_LABEL  # as a float, -100 may be any measurement
        if not bool(known.any()):
            return rows.sum() * 0.0
        if learned == "class_scores":
            return F.cross_entropy(rows, labels, ignore_index=NO_LABEL)
        rows, wanted = rows[known], labels[known].to(rows.dtype)
        if learned == "independent_scores":
            return F.binary_cross_entropy_with_logits(rows, wanted)
        return F.mse_loss(rows, wanted)

    def labels(self, settled: SettledTask, inputs: Mapping[str, Tensor], labels: Any) -> Any:
        """Targets of a batch: the labels, where the inputs do not hold them."""
        return labels


def places_of(reading: Response, shape: Sequence[Any]) -> int:
    """Dimensions of positions: 0 for one answer, 1 for a sequence, 2 for an image."""
    sizes = [size for dim, size in enumerate(shape) if dim and dim != reading.dim]
    return sum(size != 1 for size in sizes)


def class_scores(
    settled: SettledTask, named: tuple[Metric, ...]
) -> dict[Metric, torchmetrics.Metric]:
    """Scores of classes by one count each: those named, by labels; agreement with the teacher."""
    from compressc.tasks.counting import ClassCounts

    found: dict[Metric, torchmetrics.Metric] = {}
    if settled.labels:
        counts = ClassCounts(settled.judged)
        found |= dict.fromkeys(named, counts)
    return found | {AGREEMENT[settled.kind]: ClassCounts(settled.judged, answers=True)}
