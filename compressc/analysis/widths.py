"""Un-baking: sizes that depend on a width become expressions over width symbols.

torch.export writes `32` where the model meant "heads times head width", and Hugging Face writes
`-1` where it means "the heads". A pruned model must keep neither: the coupling analysis says which
width each written size is made of, and `Graph.widths` holds the one value of each.
"""

from __future__ import annotations

from math import prod
from typing import Any

import sympy

from compressc.analysis.axes import Axis, factors, find, leaves
from compressc.analysis.coupling import SIZED, Coupling, couple, written_sizes
from compressc.ir import Graph, Op, TensorType, TupleType, symbol
from compressc.ir.collection import collector_paused

#: Ops whose equal pieces may become unequal: written as `split_with_sizes` instead.
_PIECES = ("aten.chunk", "aten.split.Tensor")


@collector_paused()
def symbolize_widths(graph: Graph) -> None:
    """Write every size that depends on a width as an expression; the graph computes the same."""
    _split_pieces(graph)
    writer = _SizeWriter(graph, couple(graph))
    for op in graph:
        sizes = tuple(writer.write(op, position) for position in range(len(writer.sizes(op))))
        if sizes:
            args = list(op.args)
            args[SIZED[op.kind]] = sizes
            op.args = tuple(args)


def _split_pieces(graph: Graph) -> None:
    for op in graph:
        if op.kind in _PIECES and isinstance(op.type, TupleType):
            dim = op.args[2] if len(op.args) > 2 else op.kwargs.get("dim", 0)
            sizes = tuple(item.shape[dim] for item in op.type.items)
            op.kind, op.args, op.kwargs = "aten.split_with_sizes", (op.args[0], sizes, dim), {}


class _SizeWriter:
    """Gives width symbols names as they are first used."""

    def __init__(self, graph: Graph, found: Coupling) -> None:
        self.graph, self.found = graph, found

    def sizes(self, op: Op) -> list[tuple[Any, Axis | None]]:
        """Each size the op is written with, and its axis."""
        return list(written_sizes(op, self.found))

    def write(self, op: Op, position: int) -> Any:
        """The size at a position, as it should be written."""
        written, axis = self.sizes(op)[position]
        if axis is None or (op.kind == "aten.expand" and written == -1):
            return written
        meant = _explicit(op, position, written)
        if isinstance(meant, sympy.Expr):
            return self._open_expression(meant, axis)
        if all(leaf.frozen or leaf.size == 1 for leaf in leaves(axis)):
            return meant
        return self._expression(axis)

    def _open_expression(self, written: sympy.Expr, axis: Axis) -> sympy.Expr:
        """`4*b` as `b*w0`: the factors that are widths are written as such."""
        names = {str(name) for name in written.free_symbols}
        widths = [f for f in factors(axis) if not all(leaf.frozen for leaf in leaves(f))]
        rest = written / prod(factor.size for factor in widths)
        if names & set(self.graph.widths) or rest.as_numer_denom()[1] != 1:
            return written
        return rest * prod(self._expression(factor) for factor in widths)

    def _expression(self, axis: Axis) -> Any:
        root = find(axis)
        if root.parts:
            terms = [self._expression(part) for part in root.parts]
            return sum(terms) if root.how == "concat" else prod(terms)
        if root.frozen or root.size == 1:
            return root.size
        if root not in self.found.symbols:
            name = f"w{len(self.graph.widths)}"
            self.found.symbols[root] = name
            self.graph.widths[name] = root.size
        return symbol(self.found.symbols[root])


def _explicit(op: Op, position: int, written: Any) -> Any:
    """`-1` in a reshape means whatever is left: write what is meant."""
    if written == -1 and isinstance(op.type, TensorType) and op.kind != "aten.unflatten.int":
        return op.type.shape[position]
    return written
