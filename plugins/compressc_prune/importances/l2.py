"""`l2`: the squares of the weights."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from compressc.importance import Importance, Member, Together


def squares(member: Member) -> Tensor:
    """Sum of squared weights of each index, f32[size]."""
    return member.weights.square().sum(1)


class L2(Importance):
    """Sum of squared weights.

    Of all layers that make, read or scale the index, the mean.
    """

    name: ClassVar[str] = "l2"
    formula: ClassVar[str] = "mean over layers of sum W^2"
    paper: ClassVar[str] = (
        "Li et al. 2017, arXiv 1608.08710, section 3.1 (there l1, of the filter alone); all layers "
        "of a group: Fang et al. 2023, arXiv 2301.12900"
    )

    def score(self, together: Together) -> Tensor:
        """See `Importance`."""
        return together.mean(squares)
