"""`wkd_f`: the distribution of each channel over a map."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from compressc.distillation import FeatureObjective, Form, Seen, Unreduced

#: From here on the loss fades out: the last third of a run.
FADES = 2 / 3
#: Keeps the gradient of a deviation of 0 finite.
TINY = 1e-12


class WkdF(FeatureObjective):
    """Squared Wasserstein distance of Gaussians, one for each channel over the pixels of a map.

    Summed over channels. Deviations divide by the number of pixels, so that maps of one pixel have
    one, too. In the last third of a run the loss falls to 0 by a cosine, as the authors have it.
    Takes maps.
    """

    name: ClassVar[str] = "wkd_f"
    takes: ClassVar[frozenset[Form]] = frozenset({"map"})
    formula: ClassVar[str] = "mean_i sum_c (r * (mean s - mean t)^2 + (std s - std t)^2), over h, w"
    paper: ClassVar[str] = "Lv et al. 2024, arXiv 2412.08139, section 3, diagonal covariances"
    default_weight: ClassVar[float] = 0.02

    r: Annotated[float, Field(ge=0, le=1000)] = 2.0
    """Weight of the means against the deviations."""
    grid: Annotated[int, Field(ge=1, le=32)] = 1
    """The map is cut into so many times so many parts, each with distributions of its own."""

    def refuses(self, student: Tensor, teacher: Tensor) -> str:
        """Each part needs a pixel."""
        least = min(*student.shape[2:], *teacher.shape[2:])
        return f"a side of {least} cannot be cut into {self.grid}" if least < self.grid else ""

    def __call__(self, seen: Seen) -> Unreduced:
        """For each sample, the mean over the parts of the grid."""
        share, values = fading(seen.progress), []
        for point in self.points(seen):
            parts = zip(self._parts(point.student), self._parts(point.teacher), strict=True)
            total = point.student.new_zeros(len(point.student))
            for ours, theirs in parts:
                total = total + self._distance(ours, theirs)
            values.append(total * (share / self.grid**2))
        return Unreduced("samples", values)

    def _distance(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Of maps `[b, c, h, w]`, for each sample."""
        mean = (ours.mean((2, 3)) - theirs.mean((2, 3))).pow(2)
        spread = (_deviation(ours) - _deviation(theirs)).pow(2)
        return (self.r * mean + spread).sum(1)

    def _parts(self, feature: Tensor) -> Iterator[Tensor]:
        for band in feature.tensor_split(self.grid, 2):
            yield from band.tensor_split(self.grid, 3)


def fading(progress: float) -> float:
    """1 until the last third of a run, then by a cosine to 0."""
    over = max(0.0, progress - FADES) / (1 - FADES)
    return (1 + math.cos(math.pi * min(over, 1.0))) / 2


def _deviation(feature: Tensor) -> Tensor:
    return (feature.var((2, 3), correction=0) + TINY).sqrt()
