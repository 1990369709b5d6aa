"""`taylor`: how much the loss changes, to first order."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from compressc.importance import Importance, Member, Reading, Together


class Taylor(Importance):
    """Weight times gradient of the task's loss on calibration data.

    Without labels the loss is that of the model's own answers.
    """

    name: ClassVar[str] = "taylor"
    reads: ClassVar[frozenset[Reading]] = frozenset({"gradients"})
    formula: ClassVar[str] = "mean over layers of sum |W * g|"
    paper: ClassVar[str] = (
        "Molchanov et al. 2019, arXiv 1906.10771 (there squared, and of one layer)"
    )

    def score(self, together: Together) -> Tensor:
        """See `Importance`."""
        known = [member for member in together.members if member.gradients is not None]
        return together.mean(_terms, known)


def _terms(member: Member) -> Tensor:
    assert isinstance(member.gradients, torch.Tensor)
    return (member.weights * member.gradients).abs().sum(1)
