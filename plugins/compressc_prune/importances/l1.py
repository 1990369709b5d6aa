"""`l1`: the sizes of the weights."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from compressc.importance import Importance, Together


class L1(Importance):
    """Sum of absolute weights.

    Of all layers that make, read or scale the index, the mean.
    """

    name: ClassVar[str] = "l1"
    formula: ClassVar[str] = "mean over layers of sum |W|"
    paper: ClassVar[str] = "Li et al. 2017, arXiv 1608.08710, section 3.1 (of the filter alone)"

    def score(self, together: Together) -> Tensor:
        """See `Importance`."""
        return together.mean(lambda member: member.weights.abs().sum(1))
