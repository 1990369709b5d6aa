"""One class for each position of a sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from compressc.tasks.metric import ACCURACY, BALANCED
from compressc.tasks.response import Kind
from compressc.tasks.rows import RowTask, class_scores

if TYPE_CHECKING:
    from compressc.tasks.settled import SettledTask
    from compressc.tasks.task import Scores


class Tokens(RowTask):
    """One class for each position of a sequence: tagging, masked words, frames of sound.

    Loss: cross entropy over labelled positions. Scores: accuracy over them; balanced accuracy where
    classes are unequal; agreement with the teacher.
    """

    name = "tokens"
    targets = "class indices i64[n, s], -100 for positions without one (padding)"
    answers: ClassVar[tuple[Kind, ...]] = ("class_scores", "ids")
    places = (1, 1)

    def scores(self, settled: SettledTask) -> Scores:
        """Accuracy first."""
        return class_scores(settled, (ACCURACY, BALANCED))
