"""What a coupling rule is, and what it may ask of the analysis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from compressc.analysis.axes import Axis
from compressc.ir import Op

Axes = tuple[Axis, ...]
Values = Axes | tuple[Axes, ...]


class Analysis(Protocol):
    """What a rule may ask of the analysis; see `coupling._Analysis`."""

    def axes(self, ref: Any) -> Axes:
        """Axes of an operand."""

    def sizes(self, op: Op) -> list[int]:
        """The result's shape as numbers."""

    def size(self, size: Any) -> int:
        """A size as a number."""

    def slot(self, op: Op, tensor: str, *axes: Axis) -> None:
        """Declare the axes of a layer's tensor."""

    def produce(self, op: Op, size: int) -> Axis:
        """A fresh axis that an op's weight makes."""

    def group(self, op: Op, axis: Axis) -> None:
        """Declare the axis of a convolution's channel groups."""


Rule = Callable[[Any, Op], "Values | None"]


SPATIAL = "spatial or sequence size"


def fresh(sizes: Sequence[int], reason: str = SPATIAL) -> Axes:
    """Axes that nothing may cut."""
    return tuple(Axis(size, frozen=reason) for size in sizes)
