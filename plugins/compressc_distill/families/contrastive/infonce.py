"""`infonce`: each sample is told from the others of its batch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from compressc.distillation import Seen, Unreduced
from compressc_distill.relations import COPIES, RelationObjective, unit


class InfoNce(RelationObjective):
    """Cross entropy of finding the teacher's vector of a sample among those of its batch.

    For embeddings, and for what the last layer reads. Needs no labels. Another width than the
    teacher's gets a linear map, which is learned and dropped in the end.
    """

    name: ClassVar[str] = "infonce"
    formula: ClassVar[str] = "mean_i -log softmax_j(cos(s_i, t_j) / T)_i"
    paper: ClassVar[str] = "van den Oord et al. 2018, arXiv 1807.03748, equation 4, with cosines"
    exempt: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "minimum": "samples that are alike are not told apart, by the teacher's vectors either",
            "descent": "half way to the teacher samples may be told apart better than at its end",
            "repetition": COPIES,
        }
    )

    T: Annotated[float, Field(gt=0, le=1000)] = 0.07
    """Temperature: a lower one looks at the nearest alone."""

    def module(self, seen: Seen) -> nn.Module | None:
        """The map, where widths differ."""
        ours, theirs = self.sides(seen)
        wide = ours.shape[1] != theirs.shape[1]
        return nn.Linear(ours.shape[1], theirs.shape[1], bias=False) if wide else None

    def __call__(self, seen: Seen) -> Unreduced:
        """For each sample."""
        ours, theirs = self.sides(seen)
        image = unit(ours if seen.own is None else seen.own(ours))
        logs = (image @ unit(theirs).mT / self.T).log_softmax(-1)
        return Unreduced("samples", [-logs.diagonal()])
