"""Which dimensions of which tensors are one width: the facts that structured pruning stands on.

Every dimension of every value and weight gets an `Axis`; each op's rule says which of them are the
same. What the rules find without a pattern list: residual streams, heads and head widths (from the
reshapes), grouped and depthwise channels, gate/up/down projections, fused qkv, concatenations.
An op without a rule freezes what it touches, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import sympy
import torch

from compressc.analysis.axes import Axis, freeze, leaves, unify
from compressc.analysis.coupling_rules import Rule, Values, rule_for
from compressc.analysis.written_sizes import SymbolReader
from compressc.collecting import collector_paused
from compressc.ir import Graph, Op, Ref, TensorType, TupleType, evaluate, open_dimensions
from compressc.ir.types import Size

#: A prime that no real width has stands for each open dimension, so that sizes are plain integers.
#: This is the index of the first, 10007.
_FIRST_PRIME = 1230


@dataclass(frozen=True)
class Slot:
    """One dimension of one tensor of one layer op."""

    op: str
    tensor: str
    dim: int
    axis: Axis


@dataclass(frozen=True)
class Width:
    """A leaf axis with every place that must be cut together.

    Attributes:
        axis: the representative leaf.
        slots: the tensor dimensions that contain it.
        producers: ops whose output dimension it is made in (linear, conv, embedding; a parameter
            that values are multiplied with).
        symbol: the width symbol that sizes are written with, where one is.
    """

    axis: Axis
    slots: tuple[Slot, ...]
    producers: tuple[str, ...]
    symbol: str | None

    @property
    def size(self) -> int:
        """How many indices it has."""
        return self.axis.size


@dataclass
class Coupling:
    """The axes of a graph.

    Attributes:
        values: op name -> axes of its result (a tuple of tuples for several results).
        slots: every tensor dimension of every layer.
        groups: (conv op, axis of its channel groups).
        symbols: representative leaf -> width symbol.
        stale: leaf that is not frozen -> an op that writes a size of it as a number, which would
            not follow a cut; none is left after `symbolize_widths`.
        reasons: op name -> why its dimensions are frozen.
    """

    values: dict[str, Any] = field(default_factory=dict)
    slots: list[Slot] = field(default_factory=list)
    groups: list[tuple[str, Axis]] = field(default_factory=list)
    produced: list[tuple[str, Axis]] = field(default_factory=list)
    symbols: dict[Axis, str] = field(default_factory=dict)
    stale: dict[Axis, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def widths(self) -> list[Width]:
        """All leaf axes that some weight has, in the order of their first slot."""
        places: dict[Axis, list[Slot]] = {}
        for slot in self.slots:
            for leaf in dict.fromkeys(leaves(slot.axis)):
                if leaf.size > 1:
                    places.setdefault(leaf, []).append(slot)
        producers: dict[Axis, dict[str, None]] = {}
        for name, axis in self.produced:
            for leaf in leaves(axis):
                producers.setdefault(leaf, {})[name] = None
        return [
            Width(leaf, tuple(slots), tuple(producers.get(leaf, ())), self.symbols.get(leaf))
            for leaf, slots in places.items()
        ]


@collector_paused()
def couple(graph: Graph) -> Coupling:
    """Analyse a typed graph.

    Raises:
        CompresscError: CC400 where an op has no type.
    """
    return _Analysis(graph).run()


class _Analysis:
    """One walk over the graph; rules call back for axes, sizes and slots."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.found = Coupling()
        self.tied: dict[int, tuple[Axis, ...]] = {}
        self.sources: dict[str, str] = {}  # op that follows from held tensors alone -> one of them
        self.env: dict[str, int] = dict(graph.widths)
        for i, name in enumerate(open_dimensions(graph)):
            self.env[name] = int(sympy.prime(_FIRST_PRIME + i))

    def run(self) -> Coupling:
        for op in self.graph:
            self._trace_back(op)
            self.found.values[op.name] = self._axes_of(op)
        for name in self.graph.output_names:
            for axis in self.found.values[name]:
                freeze(axis, "width of the model's output", name)
        reader = SymbolReader(self.graph, self.found.values, self.env)
        self.found.symbols, self.found.stale = reader.symbols, reader.stale
        return self.found

    def _trace_back(self, op: Op) -> None:
        if op.kind in ("parameter", "constant"):
            self.sources[op.name] = op.name
        elif op.inputs and all(name in self.sources for name in op.inputs):
            self.sources[op.name] = self.sources[op.inputs[0]]

    def _axes_of(self, op: Op) -> Any:
        if op.kind == "input":
            return tuple(Axis(size, frozen="width of the model's input") for size in self.sizes(op))
        if op.kind == "getitem":
            return self.found.values[op.args[0].name][op.args[1]]
        rule: Rule | None = rule_for(op)
        axes: Values | None = rule(self, op) if rule is not None else None
        return axes if axes is not None else self._freeze_all(op)

    def _freeze_all(self, op: Op) -> Any:
        reason = f"{op.kind} has no coupling rule for this call"
        self.found.reasons[op.name] = reason
        for name in op.inputs:
            value = self.found.values[name]
            for axis in value if value and isinstance(value[0], Axis) else sum(value, ()):
                freeze(axis, reason, op.name)
        if isinstance(op.type, TupleType):
            return tuple(
                tuple(Axis(self.size(s), frozen=reason) for s in t.shape) for t in op.type.items
            )
        return tuple(Axis(size, frozen=reason) for size in self.sizes(op))

    # ---- what rules use ------------------------------------------------------------------------

    def axes(self, ref: Any) -> tuple[Axis, ...]:
        """Axes of an operand."""
        assert isinstance(ref, Ref)
        axes: tuple[Axis, ...] = self.found.values[ref.name]
        return axes

    def size(self, size: Size) -> int:
        """A size as a number, open dimensions at their stand-ins."""
        return int(evaluate(size, self.env))

    def sizes(self, op: Op) -> list[int]:
        """The shape of the result, of the first one where there are several, as numbers."""
        return [self.size(size) for size in _first_shape(op)]

    def made(self, op: Op) -> tuple[Axis, ...]:
        """Fresh axes for the result: free ones, but for open dimensions."""
        return tuple(
            Axis(self.size(size), frozen="" if isinstance(size, int) else "an open dimension")
            for size in _first_shape(op)
        )

    def is_mask(self, ref: Any) -> bool:
        """Is an operand true or false?"""
        type_ = self.graph.type_of(ref.name)
        return isinstance(type_, TensorType) and type_.dtype is torch.bool

    def reads(self, op: Op, position: int) -> bool:
        """Does anything read that one of an op's results?"""
        return any(user.args[1] == position for user in self.graph.users(op.name))

    def slot(self, op: Op, tensor: str, *axes: Axis) -> None:
        """Declare the axes of a layer's tensor; a missing tensor (no bias) is passed over."""
        held = getattr(op.layer, tensor, None)
        if held is None:
            return
        tied = self.tied.setdefault(id(held), axes)
        for dim, axis in enumerate(axes):
            self.found.slots.append(Slot(op.name, tensor, dim, axis))
            if tied[dim] is not axis:
                unify(axis, tied[dim])  # one tensor in two layers is cut once

    def produce(self, op: Op, size: int) -> Axis:
        """A fresh axis that an op's weight makes."""
        axis = Axis(size)
        self.found.produced.append((op.name, axis))
        return axis

    def makes(self, ref: Any, axis: Axis) -> None:
        """Declare an axis that an operand alone brings into a product: a parameter makes it."""
        source = self.sources.get(ref.name)
        if source is not None and self.graph[source].kind == "parameter":
            self.found.produced.append((source, axis))

    def group(self, op: Op, axis: Axis) -> None:
        """Declare the axis of a convolution's channel groups."""
        self.found.groups.append((op.name, axis))


def _first_shape(op: Op) -> tuple[Size, ...]:
    first = op.type.items[0] if isinstance(op.type, TupleType) else op.type
    assert isinstance(first, TensorType)
    return first.shape
