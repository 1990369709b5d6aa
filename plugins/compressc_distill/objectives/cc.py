"""`cc`: correlations between samples."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from compressc.distillation import Seen, Unreduced
from compressc_distill.relations import RelationObjective, unit


class Cc(RelationObjective):
    """Squared difference of a Gaussian kernel of all samples, as a polynomial of their cosine."""

    name: ClassVar[str] = "cc"
    formula: ClassVar[str] = (
        "mean_ij (k(s) - k(t))^2, k_ij = exp(-2 gamma) * sum_p (2 gamma cos_ij)^p / p!, p to order"
    )
    paper: ClassVar[str] = "Peng et al. 2019, arXiv 1904.01802, section 3.3"

    gamma: Annotated[float, Field(gt=0, le=100)] = 0.4
    """Of the Gaussian kernel: a larger one sees near samples alone."""
    order: Annotated[int, Field(ge=1, le=20)] = 2
    """Where the polynomial ends."""

    def __call__(self, seen: Seen) -> Unreduced:
        """For each pair."""
        ours, theirs = self.sides(seen)
        return Unreduced("pairs", [(self._kernel(ours) - self._kernel(theirs)).pow(2)])

    def _kernel(self, vectors: Tensor) -> Tensor:
        ways = unit(vectors)
        steps, term = 2 * self.gamma * (ways @ ways.mT), ways.new_ones(())
        total = term
        for power in range(1, self.order + 1):
            term = term * steps / power
            total = total + term
        return math.exp(-2 * self.gamma) * total
