"""What an op is, apart from its name and its operands: equal for ops that compute alike."""

from __future__ import annotations

from typing import Any

import sympy

from compressc.ir import Graph, Op, Ref, layer_attributes, symbol
from compressc.ir.ops import map_arg
from compressc.ir.types import simplify_size


class Signatures:
    """The signatures of a graph's ops: kind, attributes, operand positions, types, open sizes open.

    Width symbols are filled in: two layers of 4 heads are alike whatever their widths are called.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._widths = {symbol(name): value for name, value in graph.widths.items()}
        self._sizes: dict[Any, str] = {}
        self._types: dict[Any, str] = {}

    def of(self, op: Op) -> str:
        """Text that is equal for ops that compute alike; a held operand shows its type."""
        parts = [op.kind, repr(map_arg(op.args, self._leaf))]
        if op.kwargs:
            parts.append(repr(map_arg(op.kwargs, self._leaf)))
        if op.layer is not None:
            parts.append(repr(map_arg(layer_attributes(op), self._leaf)))
        return "|".join((*parts, self._type(op)))

    def _leaf(self, arg: Any) -> Any:
        if isinstance(arg, Ref):
            source = self.graph[arg.name]
            return f"@{source.kind} {self._type(source)}" if source.role == "tensor" else "%"
        if isinstance(arg, sympy.Expr):
            if arg not in self._sizes:
                self._sizes[arg] = str(simplify_size(arg.xreplace(self._widths)))
            return self._sizes[arg]
        return arg if arg is None or isinstance(arg, bool | int | float) else str(arg)

    def _type(self, op: Op) -> str:
        if op.type not in self._types:
            self._types[op.type] = str(op.type)
        return self._types[op.type]
