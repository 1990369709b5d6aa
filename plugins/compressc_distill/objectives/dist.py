"""`dist`: correlations within rows and within classes."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from compressc.distillation import Objective, Seen, Unreduced, widened
from compressc_distill.objectives.temperature import Temperature, number_of

#: Squared norms below this are those of constant probabilities, which correlate with nothing.
_LEAST = 1e-12


class Dist(Objective):
    """One minus the correlation of probabilities: over the classes of a row, and over the batch.

    Asks for the teacher's order, not its exact values: for teachers that are much stronger. The
    second part compares the samples of a batch, class by class, and wants 64 or more of them.
    """

    name: ClassVar[str] = "dist"
    formula: ClassVar[str] = (
        "T^2 * (beta * (1 - mean_i corr_j(p_ij, q_ij)) + gamma * (1 - mean_j corr_i(p_ij, q_ij)))"
    )
    paper: ClassVar[str] = "Huang et al. 2022, arXiv 2205.10536"
    default_weight: ClassVar[float] = 2.0
    shift_free: ClassVar[bool] = True

    T: Temperature = "auto"
    """Temperature of the probabilities. `auto` is 4, and 1 from 500 classes on."""
    beta: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Weight of the correlations over classes."""
    gamma: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Weight of the correlations over the batch."""

    def check(self, seen: Seen) -> None:
        """A correlation over one class is none."""
        if seen.classes < 2:
            raise self.misfit("needs 2 classes or more", seen.classes)

    def __call__(self, seen: Seen) -> Unreduced:
        """For each row; the correlation over the batch is the same in all."""
        t = number_of(self.T, seen.classes)
        p, q = ((widened(x.rows) / t).softmax(-1) for x in (seen.student, seen.teacher))
        loss = self.beta * (1 - _correlation(p, q, -1))
        if len(p) > 1:
            loss = loss + self.gamma * (1 - _correlation(p, q, 0).mean())
        return Unreduced("rows", [t**2 * loss])


def _correlation(ours: Tensor, theirs: Tensor, dim: int) -> Tensor:
    """Pearson's, 0 where one side is constant."""
    ours, theirs = (x - x.mean(dim, keepdim=True) for x in (ours, theirs))
    norms = (
        ours.pow(2).sum(dim).clamp_min(_LEAST) * theirs.pow(2).sum(dim).clamp_min(_LEAST)
    ).sqrt()
    return (ours * theirs).sum(dim) / norms
