"""Un-baking: sizes that depend on a width become expressions over width symbols.

torch.export writes `32` where the model meant "heads times head width", and Hugging Face writes
`-1` where it means "the heads". A pruned model must keep neither: the coupling analysis says which
width each written size is made of, and `Graph.widths` holds the one value of each.
"""

from __future__ import annotations

from math import prod
from typing import Any

import sympy

from compressc.analysis.arguments import set_argument
from compressc.analysis.axes import Axis, factors, leaves
from compressc.analysis.coupling import Coupling, couple
from compressc.analysis.coupling_rules.shapes import split_dim
from compressc.analysis.written_sizes import PIECES, SIZED, axis_size, written_sizes
from compressc.collecting import collector_paused
from compressc.ir import Graph, Op, TensorType, TupleType


@collector_paused()
def symbolize_widths(graph: Graph) -> None:
    """Write every size that depends on a width as an expression; the graph computes the same."""
    _split_pieces(graph)
    found = couple(graph)
    if not found.stale:
        return
    writer = _SizeWriter(graph, found)
    for op in graph:
        sizes = written_sizes(op, found.values)
        if sizes:
            written = tuple(writer.write(op, i, *size) for i, size in enumerate(sizes))
            set_argument(op, SIZED[op.kind], written)


def _split_pieces(graph: Graph) -> None:
    """Equal pieces may become unequal: they are listed."""
    for op in graph:
        if op.kind in PIECES and isinstance(op.type, TupleType):
            dim = split_dim(op, len(op.type.items[0].shape))
            sizes = tuple(item.shape[dim] for item in op.type.items)
            op.kind, op.args, op.kwargs = "aten.split_with_sizes", (op.args[0], sizes, dim), {}


class _SizeWriter:
    """Gives width symbols names as they are first used."""

    def __init__(self, graph: Graph, found: Coupling) -> None:
        self.graph, self.symbols = graph, found.symbols

    def write(self, op: Op, position: int, written: Any, axis: Axis | None) -> Any:
        """The size at a position, as it should be written."""
        if axis is None or (op.kind == "aten.expand" and written == -1):
            return written
        meant = _explicit(op, position, written)
        if isinstance(meant, sympy.Expr):
            return self._open_expression(meant, axis)
        return meant if _is_fixed(axis) else self._expression(axis)

    def _open_expression(self, written: sympy.Expr, axis: Axis) -> sympy.Expr:
        """`4*b` as `b*w0`: the factors that are widths are written as such."""
        if {str(name) for name in written.free_symbols} & self.graph.widths.keys():
            return written
        widths = [factor for factor in factors(axis) if not _is_fixed(factor)]
        rest = written / prod(factor.size for factor in widths)
        return rest * prod(self._expression(factor) for factor in widths)

    def _expression(self, axis: Axis) -> Any:
        for leaf in leaves(axis):
            if not leaf.frozen and leaf.size > 1 and leaf not in self.symbols:
                name = f"w{len(self.graph.widths)}"
                self.symbols[leaf] = name
                self.graph.widths[name] = leaf.size
        return axis_size(axis, self.symbols)


def _is_fixed(axis: Axis) -> bool:
    return all(leaf.frozen or leaf.size == 1 for leaf in leaves(axis))


def _explicit(op: Op, position: int, written: Any) -> Any:
    """`-1` in a reshape means whatever is left: write what is meant."""
    if written == -1 and isinstance(op.type, TensorType) and op.kind != "aten.unflatten.int":
        return op.type.shape[position]
    return written
