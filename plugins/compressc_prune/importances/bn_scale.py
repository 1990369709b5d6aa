"""`bn_scale`: what batch norms multiply an index by."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from compressc.importance import Importance, Together
from compressc_prune.importances.l2 import squares


class BnScale(Importance):
    """Absolute scale of the batch norms behind the layers that make an index.

    A width without a batch norm is scored as by `l2`.
    """

    name: ClassVar[str] = "bn_scale"
    formula: ClassVar[str] = "mean over batch norms of |gamma|"
    paper: ClassVar[str] = "Liu et al. 2017, arXiv 1708.06519, section 3 (Network Slimming)"

    def score(self, together: Together) -> Tensor:
        """See `Importance`."""
        norms = [m for m in together.members if m.kind.startswith("batch_norm")]
        if not norms:
            return together.mean(squares)
        return together.mean(lambda member: member.weights.abs().sum(1), norms)
