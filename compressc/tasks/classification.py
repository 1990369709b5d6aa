"""One class for each sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from compressc.tasks.metric import ACCURACY, BALANCED
from compressc.tasks.response import Kind
from compressc.tasks.rows import RowTask, class_scores

if TYPE_CHECKING:
    from compressc.tasks.settled import SettledTask
    from compressc.tasks.task import Scores


class Classification(RowTask):
    """One class for each sample, by scores `[n, c]` or by an integer.

    Loss: cross entropy. Scores: accuracy; balanced accuracy where classes are unequal; agreement
    with the teacher.
    """

    name = "classification"
    targets = "class indices i64[n], -100 for none"
    answers: ClassVar[tuple[Kind, ...]] = ("class_scores", "ids")
    places = (0, 0)

    def scores(self, settled: SettledTask) -> Scores:
        """Accuracy first."""
        return class_scores(settled, (ACCURACY, BALANCED))
