"""Vectors whose direction counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from compressc.tasks.metric import COSINE, RETRIEVAL
from compressc.tasks.response import Kind
from compressc.tasks.rows import RowTask

if TYPE_CHECKING:
    from compressc.tasks.settled import SettledTask
    from compressc.tasks.task import Scores


class Embedding(RowTask):
    """Vectors that are compared by their angle; the teacher's are what is wanted.

    Scores: the mean cosine to the teacher's vectors; retrieval, the share of vectors whose nearest
    other is the teacher's, among the first 2,048.
    """

    name = "embedding"
    targets = "none: the teacher's vectors are learned"
    answers: ClassVar[tuple[Kind, ...]] = ("embedding",)

    def scores(self, settled: SettledTask) -> Scores:
        """The cosine first."""
        from compressc.tasks.distances import Cosines, Retrieval

        return {COSINE: Cosines(settled.judged), RETRIEVAL: Retrieval(settled.judged)}
