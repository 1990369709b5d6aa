"""`cwd`: where on a map each channel is high."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from compressc.distillation import FeatureObjective, Form, Seen, Unreduced
from compressc.kernels import softmax_kl


class Cwd(FeatureObjective):
    """KL of the softmax over the pixels of each channel, the mean over channels. Takes maps."""

    name: ClassVar[str] = "cwd"
    takes: ClassVar[frozenset[Form]] = frozenset({"map"})
    formula: ClassVar[str] = "T^2 * mean_ic KL(softmax_hw(t_ic / T) || softmax_hw(s_ic / T))"
    paper: ClassVar[str] = "Shu et al. 2021, arXiv 2011.13256, section 3"
    default_weight: ClassVar[float] = 10.0

    T: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Temperature: a higher one makes more of the pixels where a channel is low."""

    def refuses(self, student: Tensor, teacher: Tensor) -> str:
        """The softmax of a single pixel is 1 whatever is there."""
        one = min(student.shape[2:].numel(), teacher.shape[2:].numel()) == 1
        return "a map of one pixel" if one else ""

    def __call__(self, seen: Seen) -> Unreduced:
        """For each channel of each sample."""
        values = [
            softmax_kl(point.student.flatten(2), point.teacher.flatten(2), self.T)
            for point in self.points(seen)
        ]
        return Unreduced("samples", values)
