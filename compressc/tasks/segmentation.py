"""One class for each pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from compressc.tasks.metric import ACCURACY, MIOU
from compressc.tasks.response import Kind
from compressc.tasks.rows import RowTask, class_scores

if TYPE_CHECKING:
    from compressc.tasks.settled import SettledTask
    from compressc.tasks.task import Scores


class Segmentation(RowTask):
    """One class for each pixel or voxel.

    Loss: cross entropy over labelled pixels. Scores: mean intersection over union over the classes
    that are wanted or given, from counts of the whole test part; accuracy of pixels; agreement with
    the teacher.
    """

    name = "segmentation"
    targets = "class indices i64[n, h, w], -100 for pixels without one"
    answers: ClassVar[tuple[Kind, ...]] = ("class_scores", "ids")
    places = (2, 99)

    def scores(self, settled: SettledTask) -> Scores:
        """Mean intersection over union first."""
        return class_scores(settled, (MIOU, ACCURACY))
