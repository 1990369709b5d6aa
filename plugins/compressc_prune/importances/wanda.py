"""`wanda`: what reads an index, times what it reads."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from compressc.importance import Importance, Member, Reading, Together
from compressc_prune.importances.l2 import squares


class Wanda(Importance):
    """Absolute weights of the layers that read an index, times the size of what they read there.

    Large weights on a value that is always small are worth little. A width that no linear layer and
    no convolution reads is scored as by `l2`.
    """

    name: ClassVar[str] = "wanda"
    reads: ClassVar[frozenset[Reading]] = frozenset({"inputs"})
    formula: ClassVar[str] = "mean over reading layers of sum |W| * rms(input)"
    paper: ClassVar[str] = (
        "Sun et al. 2024, arXiv 2306.11695, equation 1 (there of single weights); summed over the "
        "weights of a channel: An et al. 2024, arXiv 2312.11983 (there Wanda-sp)"
    )

    def score(self, together: Together) -> Tensor:
        """See `Importance`."""
        known = [member for member in together.members if member.inputs is not None]
        return together.mean(_terms, known) if known else together.mean(squares)


def _terms(member: Member) -> Tensor:
    assert isinstance(member.inputs, torch.Tensor)
    return (member.weights.abs() * member.inputs).sum(1)
