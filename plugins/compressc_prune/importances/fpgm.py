"""`fpgm`: how far an index is from the middle of all others."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from compressc.importance import Importance, Member, Together


class Fpgm(Importance):
    """Sum of the distances to the weights of all other indices.

    An index near the geometric median can be stood for by the others. Of the weights that make the
    width; where a parameter or nothing makes it, of all.
    """

    name: ClassVar[str] = "fpgm"
    formula: ClassVar[str] = "mean over layers of sum over j of |W(i) - W(j)|"
    paper: ClassVar[str] = "He et al. 2019, arXiv 1811.00250"

    def score(self, together: Together) -> Tensor:
        """See `Importance`."""
        makers = [member for member in together.members if member.side == "makes"]
        return together.mean(_distances, makers or None)


def _distances(member: Member) -> Tensor:
    rows = member.weights.double()
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(1)
