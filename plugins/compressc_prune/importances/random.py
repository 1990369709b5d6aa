"""`random`: what any other importance has to beat."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from compressc.importance import Importance, Together


class Random(Importance):
    """A random number for each index, by the seed of the run and the width."""

    name: ClassVar[str] = "random"
    formula: ClassVar[str] = "uniform in [0, 1)"

    def score(self, together: Together) -> Tensor:
        """See `Importance`."""
        return torch.rand(together.size, generator=together.generator)
