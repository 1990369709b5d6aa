"""Several answers of yes and no for each sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from compressc.tasks.metric import ACCURACY, AGREEMENT, F1
from compressc.tasks.response import Kind
from compressc.tasks.rows import RowTask

if TYPE_CHECKING:
    import torchmetrics

    from compressc.tasks.metric import Metric
    from compressc.tasks.settled import SettledTask
    from compressc.tasks.task import Scores


class Multilabel(RowTask):
    """Answers of yes and no that do not exclude each other; also a single one.

    Loss: binary cross entropy. Scores: share of answers met; F1 over all answers of yes; agreement
    with the teacher.
    """

    name = "multilabel"
    targets = "zeros and ones [n, c], -100 for none"
    answers: ClassVar[tuple[Kind, ...]] = ("independent_scores",)

    def scores(self, settled: SettledTask) -> Scores:
        """Accuracy first."""
        from compressc.tasks.counting import BitCounts

        found: dict[Metric, torchmetrics.Metric] = {}
        if settled.labels:
            found |= dict.fromkeys((ACCURACY, F1), BitCounts(settled.judged))
        return found | {AGREEMENT[settled.kind]: BitCounts(settled.judged, answers=True)}
