"""`hessian`: how much the loss changes, to second order."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from compressc.importance import Importance, Member, Reading, Together


class Hessian(Importance):
    """Squared weight times the diagonal of the empirical Fisher information.

    That diagonal is the mean over samples of the squared gradient of the task's loss: near a
    minimum of a log likelihood it stands for the Hessian's. One backward pass for each sample.
    """

    name: ClassVar[str] = "hessian"
    reads: ClassVar[frozenset[Reading]] = frozenset({"squared gradients"})
    formula: ClassVar[str] = "mean over layers of sum W^2 * mean(g^2) / 2"
    paper: ClassVar[str] = (
        "LeCun et al. 1989 (Optimal Brain Damage); Fisher in place of the Hessian: "
        "Theis et al. 2018, arXiv 1801.05787"
    )

    def score(self, together: Together) -> Tensor:
        """See `Importance`."""
        known = [member for member in together.members if member.squared_gradients is not None]
        return together.mean(_terms, known)


def _terms(member: Member) -> Tensor:
    assert isinstance(member.squared_gradients, torch.Tensor)
    return (member.weights.square() * member.squared_gradients).sum(1) / 2
