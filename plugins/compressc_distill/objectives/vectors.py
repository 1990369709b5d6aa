"""`vectors`: directions and lengths."""

from __future__ import annotations

from typing import ClassVar

from compressc.distillation import Objective, Seen, Unreduced
from compressc_distill.objectives.cosine import Cosine
from compressc_distill.objectives.scaled_mse import ScaledMse


class Vectors(Objective):
    """`cosine` + `scaled_mse`: for vectors whose direction counts, and whose length may."""

    name: ClassVar[str] = "vectors"
    formula: ClassVar[str] = "cosine + scaled_mse"

    def __call__(self, seen: Seen) -> Unreduced:
        """For each row."""
        direction, length = Cosine()(seen), ScaledMse()(seen)
        (missed,), (constant,) = direction.values, direction.units
        (error,), (variance,) = length.values, length.units
        return Unreduced("rows", [missed / constant + error.mean(-1) / variance])
