"""The sizes that ops are written with, and which width each symbol in them stands for.

A size is an expression over the open dimensions and the width symbols (`24*w0`, `w0 + w1`). The
axis it is the size of has the same form, a product or sum of leaves: comparing the two tells which
leaf a symbol is, and whether the size would follow a cut at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import sympy

from compressc.analysis.arguments import argument
from compressc.analysis.axes import Axis, find, leaves
from compressc.ir import Graph, Op, TupleType, symbol

#: Ops that are written with sizes -> the argument that holds them.
SIZED: dict[str, str] = {
    "aten.reshape": "shape",
    "aten.view": "size",
    "aten._unsafe_view": "size",
    "aten.expand": "size",
    "aten.broadcast_to": "size",
    "aten.unflatten.int": "sizes",
    "aten.split_with_sizes": "split_sizes",
    "aten.repeat": "repeats",
    "aten.tile": "dims",
    "aten.layer_norm": "normalized_shape",
    "aten.rms_norm": "normalized_shape",
    **{f"aten.{kind}": "size" for kind in ("zeros", "ones", "full", "rand", "randn")},
    **{f"aten.new_{kind}": "size" for kind in ("zeros", "ones", "full", "empty")},
    "aten.empty.memory_format": "size",
}
#: Ops that cut a dimension into pieces by a number: equal ones must stay equal.
PIECES = frozenset(
    f"aten.{kind}"
    for kind in (
        *("chunk", "split.Tensor", "split.sizes", "tensor_split.sections", "tensor_split.indices"),
        *("unsafe_chunk", "unsafe_split.Tensor", "unsafe_split_with_sizes"),
        *(f"{way}split.{form}" for way in "hvd" for form in ("int", "array")),
    )
)


def written_sizes(op: Op, values: Mapping[str, Any]) -> list[tuple[Any, Axis | None]]:
    """Each size an op is written with, and the axis it is the size of, where it is one's.

    Args:
        op: any op.
        values: op name -> axes of its result.
    """
    if op.kind not in SIZED:
        return []
    written = argument(op, SIZED[op.kind])
    axes: Sequence[Axis | None] = values[op.name]
    if op.kind == "aten.split_with_sizes":
        pieces = values[op.name]
        dim = argument(op, "dim") % len(pieces[0])
        axes = [piece[dim] for piece in pieces]
    elif op.kind == "aten.unflatten.int":
        dim = op.args[1] % (len(axes) - len(written) + 1)
        axes = axes[dim : dim + len(written)]
    elif op.kind in ("aten.repeat", "aten.tile"):
        copied = values[op.inputs[0]]
        copied = (*(None for _ in range(len(axes) - len(copied))), *copied)
        axes = [a if b is None or b.size == 1 else None for a, b in zip(axes, copied, strict=True)]
    return list(zip(written, axes[len(axes) - len(written) :], strict=True))


def axis_size(axis: Axis, symbols: Mapping[Axis, str]) -> Any:
    """The size of an axis over the symbols of its leaves; a leaf without one is a number."""
    root = find(axis)
    if root.parts:
        terms = [axis_size(part, symbols) for part in root.parts]
        return sum(terms) if root.how == "concat" else prod(terms)
    return symbol(symbols[root]) if root in symbols else root.size


@dataclass(frozen=True)
class _Use:
    """A size as it is written at an op, its axis, and the width symbols in it."""

    op: str
    written: Any
    axis: Axis
    names: tuple[str, ...]


class SymbolReader:
    """Reads the width symbols of a graph whose axes are known.

    Attributes:
        symbols: leaf -> its symbol.
        stale: unfrozen leaf -> the op whose sizes would not follow a cut of it.
    """

    def __init__(self, graph: Graph, values: Mapping[str, Any], env: Mapping[str, int]) -> None:
        self.graph = graph
        self.sizes = {symbol(name): size for name, size in env.items()}
        self.symbols: dict[Axis, str] = {}
        self.leaf: dict[str, Axis] = {}
        self.stale: dict[Axis, str] = {}
        self.uses = [use for op in graph for use in self._uses(op, values)]
        self._assign()
        for use in self.uses:
            if not self._follows(use):
                self._mark(use.op, [use.axis])
        for op in graph:
            if op.kind in PIECES and isinstance(op.type, TupleType):
                self._mark(op.name, [axis for piece in values[op.name] for axis in piece])

    def _uses(self, op: Op, values: Mapping[str, Any]) -> Iterator[_Use]:
        for written, axis in written_sizes(op, values):
            if axis is None or (written == -1 and op.kind == "aten.expand"):
                continue
            free = written.free_symbols if isinstance(written, sympy.Expr) else ()
            names = tuple(sorted(str(s) for s in free if str(s) in self.graph.widths))
            if names or any(_may_be_cut(leaf) for leaf in leaves(axis)):
                yield _Use(op.name, written, axis, names)

    def _assign(self) -> None:
        """Symbols with one leaf of their size wherever they are used first, the rest in turn.

        Where several leaves are left to a symbol every size is the same whichever it gets.
        """
        for use in self.uses:  # `w0` alone: no doubt
            if use.written == symbol(use.names[0]) if use.names else False:
                self._give(use.names[0], find(use.axis))
        while (found := self._candidates()) != {}:
            name = min(found, key=lambda name: (len(found[name]), name))
            self._give(name, found[name][0])

    def _candidates(self) -> dict[str, list[Axis]]:
        """Symbol without a leaf -> the leaves of its size in every axis it is used for."""
        found: dict[str, list[Axis]] = {}
        for use in self.uses:
            for name in use.names:
                if name not in self.leaf:
                    here = self._fitting(name, use.axis)
                    before = found.get(name, here)
                    found[name] = [leaf for leaf in before if leaf in here]
        return {name: fitting for name, fitting in found.items() if fitting}

    def _fitting(self, name: str, axis: Axis) -> list[Axis]:
        size = self.graph.widths[name]
        fit = [x for x in dict.fromkeys(leaves(axis)) if x.size == size and x not in self.symbols]
        return sorted(fit, key=lambda leaf: bool(leaf.frozen))

    def _give(self, name: str, leaf: Axis) -> None:
        taken = leaf in self.symbols or name in self.leaf
        if not taken and not leaf.parts and leaf.size == self.graph.widths[name]:
            self.symbols[leaf], self.leaf[name] = name, leaf

    def _follows(self, use: _Use) -> bool:
        """Is the size, as it is written, the size of the axis whatever its leaves are?"""
        if any(_may_be_cut(leaf) and leaf not in self.symbols for leaf in leaves(use.axis)):
            return False
        written = use.written
        if isinstance(written, sympy.Expr):
            known = [s for s in written.free_symbols if s in self.sizes and str(s) not in self.leaf]
            written = written.xreplace({s: self.sizes[s] for s in known})
        return bool(sympy.expand(written - axis_size(use.axis, self.symbols)) == 0)

    def _mark(self, op: str, axes: Sequence[Axis]) -> None:
        for axis in axes:
            for leaf in leaves(axis):
                if _may_be_cut(leaf):
                    self.stale.setdefault(leaf, op)


def _may_be_cut(leaf: Axis) -> bool:
    return leaf.size > 1 and not leaf.frozen
