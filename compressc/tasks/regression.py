"""Numbers that are meant as such."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from compressc.tasks.metric import AGREEMENT, MAE, R2, TEACHER_R2
from compressc.tasks.response import Kind
from compressc.tasks.rows import RowTask

if TYPE_CHECKING:
    import torchmetrics

    from compressc.tasks.metric import Metric
    from compressc.tasks.settled import SettledTask
    from compressc.tasks.task import Scores


class Regression(RowTask):
    """Numbers: a measurement, a forecast, an image that is restored.

    Loss: the mean squared error. Scores: R^2 of the labels and the mean absolute error in their
    unit; R^2 of the teacher's answers; equal signs where its numbers fall on both sides of 0.
    """

    name = "regression"
    targets = "numbers of the output's shape"
    answers: ClassVar[tuple[Kind, ...]] = ("values",)

    def scores(self, settled: SettledTask) -> Scores:
        """R^2 first."""
        from compressc.tasks.counting import ClassCounts
        from compressc.tasks.distances import Errors

        found: dict[Metric, torchmetrics.Metric] = {}
        if settled.labels:
            found |= dict.fromkeys((R2, MAE), Errors(settled.judged))
        found[TEACHER_R2] = Errors(settled.judged)
        if settled.signs:
            found[AGREEMENT[settled.kind]] = ClassCounts(settled.judged, answers=True)
        return found
