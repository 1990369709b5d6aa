"""`lamp`: what an index has of all that would be left when it goes."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from compressc.importance import Importance, Together
from compressc_prune.importances.l2 import squares


class Lamp(Importance):
    """Squared weights as a share of those of all indices that are not smaller.

    The order within a width is that of `l2`; what it is for is ranking widths together
    (`prune(importance=lamp, allocation=global)`): the best index of every width has the score 1, so
    no layer is emptied.
    """

    name: ClassVar[str] = "lamp"
    comparable: ClassVar[bool] = True
    formula: ClassVar[str] = "s(i) / sum of s(j) over all j with s(j) >= s(i), s the score of l2"
    paper: ClassVar[str] = "Lee et al. 2021, arXiv 2010.07611 (there of single weights)"

    def score(self, together: Together) -> Tensor:
        """See `Importance`."""
        order = together.mean(squares).double().sort(descending=True)
        shares = order.values / order.values.cumsum(0).clamp_min(1e-300)
        return torch.empty_like(shares).scatter_(0, order.indices, shares).float()
