"""What a coupling rule is, what it may ask of the analysis, and what rules of all families use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from compressc.analysis.arguments import argument
from compressc.analysis.axes import Axis, freeze
from compressc.ir import Op, Ref, TupleType
from compressc.ir.ops import refs_of

Axes = tuple[Axis, ...]
Values = Axes | tuple[Axes, ...]


class Analysis(Protocol):
    """What a rule may ask of the analysis; see `coupling._Analysis`."""

    def axes(self, ref: Any) -> Axes:
        """Axes of an operand."""

    def sizes(self, op: Op) -> list[int]:
        """The shape of the result, of the first one where there are several, as numbers."""

    def size(self, size: Any) -> int:
        """A size as a number."""

    def made(self, op: Op) -> Axes:
        """Fresh axes for the result: free ones, but for open dimensions."""

    def is_mask(self, ref: Any) -> bool:
        """Is an operand true or false?"""

    def reads(self, op: Op, position: int) -> bool:
        """Does anything read that one of an op's results?"""

    def slot(self, op: Op, tensor: str, *axes: Axis) -> None:
        """Declare the axes of a layer's tensor."""

    def produce(self, op: Op, size: int) -> Axis:
        """A fresh axis that an op's weight makes."""

    def makes(self, ref: Any, axis: Axis) -> None:
        """Declare an axis that an operand alone brings into a product: a parameter makes it."""

    def group(self, op: Op, axis: Axis) -> None:
        """Declare the axis of a convolution's channel groups."""


Rule = Callable[[Any, Op], "Values | None"]

SPATIAL = "spatial or sequence size"


def fresh(sizes: Sequence[int], reason: str = SPATIAL, by: str = "") -> Axes:
    """Axes that nothing may cut."""
    return tuple(Axis(size, frozen=reason, by=by) for size in sizes)


def dims(op: Op, name: str, rank: int) -> list[int]:
    """The dimensions that an argument names, counted from the front; all of them for none."""
    given = argument(op, name)
    if given is None or given == ():
        return list(range(rank))
    return [dim % rank for dim in (given if isinstance(given, tuple) else (given,))] if rank else []


def freeze_dims(axes: Axes, where: Iterable[int], reason: str, op: Op) -> None:
    """Freeze some dimensions of a value."""
    for dim in where:
        freeze(axes[dim], reason, op.name)


def freeze_others(c: Analysis, op: Op, reason: str) -> None:
    """Freeze every operand but the first."""
    for ref in [ref for ref in refs_of((op.args, op.kwargs)) if ref != op.args[0]]:
        freeze_dims(c.axes(ref), range(len(c.axes(ref))), reason, op)


def each_result(op: Op, axes: Axes) -> Values:
    """The same axes for each of the op's results."""
    return tuple(axes for _ in op.type.items) if isinstance(op.type, TupleType) else axes


def operand(c: Analysis, op: Op, name: str) -> Axes | None:
    """Axes of an optional operand by its schema name."""
    ref = argument(op, name)
    return c.axes(ref) if isinstance(ref, Ref) else None
