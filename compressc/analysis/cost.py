"""What each op costs: parameters, bytes and multiply-accumulates, as numbers or as formulas.

Both come from the same rules: a size counts as a number where the dimensions are given, and as
itself where they are left open.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sympy

from compressc.analysis.macs import SizeOf, is_counted, macs
from compressc.ir import Graph, Op, TensorType, TupleType, evaluate, symbol
from compressc.ir.quantized import is_scaling, stored_types
from compressc.ir.types import Size, simplify_size

#: Tensors that a layer keeps for bookkeeping: they are no parameters.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
#: The size that open dimensions take where the caller names none.
DEFAULT_DIMENSION = 1


@dataclass(frozen=True)
class Cost:
    """Cost of one op or of a whole graph.

    Attributes:
        parameters: elements of its weights (statistics, quantization scales and constants not
            counted).
        bytes: bytes of all its tensors, those included.
        macs: multiply-accumulates of one run; 0 for what contracts nothing, and for what
            `not_counted` lists.
        activation_bytes: bytes of its result.
    """

    parameters: int = 0
    bytes: int = 0
    macs: int = 0
    activation_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.parameters + other.parameters,
            self.bytes + other.bytes,
            self.macs + other.macs,
            self.activation_bytes + other.activation_bytes,
        )


@dataclass(frozen=True)
class CostFormula:
    """Cost of a whole graph over its open dimensions (`b`, `s`, ...).

    Attributes:
        parameters: as in `Cost`.
        bytes: as in `Cost`.
        macs: an expression, expanded; see `formula_text`.
        activation_bytes: an expression; summed over all results, not peak.
    """

    parameters: int
    bytes: int
    macs: Size
    activation_bytes: Size

    def at(self, **dimensions: int) -> Cost:
        """The cost at given sizes; open dimensions not given count as 1."""
        env = _Sizes(dimensions)
        numbers = (evaluate(size, env) for size in (self.macs, self.activation_bytes))
        return Cost(self.parameters, self.bytes, *map(int, numbers))


def op_costs(graph: Graph, **dimensions: int) -> dict[str, Cost]:
    """Cost of every op, in order; a tied tensor counts where it is first held.

    Args:
        graph: a typed graph.
        dimensions: values for open dimensions (`b=64`); those not given count as 1.
    """
    env = _Sizes(graph.size_env(**dimensions))
    seen: set[int] = set()
    return {op.name: _cost(graph, op, lambda size: evaluate(size, env), seen) for op in graph}


def total_cost(graph: Graph, **dimensions: int) -> Cost:
    """Cost of the whole graph; activation bytes are summed, not peak."""
    return sum(op_costs(graph, **dimensions).values(), Cost())


def cost_formula(graph: Graph) -> CostFormula:
    """Cost of the whole graph at any size: `total_cost(graph, b=8) == cost_formula(graph).at(b=8)`.

    Width symbols are filled in; the open dimensions stay.
    """
    costs = op_cost_terms(graph).values()
    return CostFormula(
        sum(cost.parameters for cost in costs),
        sum(cost.bytes for cost in costs),
        sum_sizes(cost.macs for cost in costs),
        sum_sizes(cost.activation_bytes for cost in costs),
    )


def op_cost_terms(graph: Graph) -> dict[str, Any]:
    """As `op_costs`, with expressions of the open dimensions in place of numbers."""
    size_of = open_sizes(graph)
    seen: set[int] = set()
    return {op.name: _cost(graph, op, size_of, seen) for op in graph}


def open_sizes(graph: Graph) -> SizeOf:
    """A function that fills the widths of a graph into a size and leaves its dimensions open."""
    widths = {symbol(name): value for name, value in graph.widths.items()}

    def size_of(size: Size) -> Any:
        return size if isinstance(size, int) else simplify_size(size.xreplace(widths))

    return size_of


def sum_sizes(sizes: Iterable[Any]) -> Size:
    """The expanded sum; equal terms are counted first, for sympy adds slowly."""
    terms = Counter(sizes)
    total = sum((count * term for term, count in terms.items()), sympy.Integer(0))
    return simplify_size(sympy.expand(total))


def formula_text(size: Size) -> str:
    """`1,234*b*s + 56*b*s**2`, the terms that grow fastest first."""
    if isinstance(size, int):
        return f"{size:,}"
    if type(size).__name__ == "Max":
        return f"max({', '.join(formula_text(simplify_size(arg)) for arg in size.args)})"
    terms = [term.as_coeff_Mul() for term in size.as_ordered_terms()]
    if not all(coefficient.is_Integer for coefficient, _ in terms):
        return str(size)
    texts = [_term_text(int(coefficient), rest) for coefficient, rest in terms]
    return " + ".join(texts).replace("+ -", "- ")


def _term_text(coefficient: int, rest: Any) -> str:
    if rest == 1:
        return f"{coefficient:,}"
    factors = f"({rest})" if rest.is_Add else str(rest)
    return factors if coefficient == 1 else f"{coefficient:,}*{factors}"


def not_counted(graph: Graph) -> dict[str, list[str]]:
    """Kinds that may multiply and have no rule -> the ops of that kind; their MACs read 0."""
    found: dict[str, list[str]] = defaultdict(list)
    for op in graph:
        if not is_counted(op):
            found[op.kind].append(op.name)
    return dict(found)


class _Sizes(dict[str, int]):
    """Symbol values; an open dimension nobody gave is 1."""

    def __init__(self, values: Mapping[str, int]) -> None:
        super().__init__(values)

    def __missing__(self, key: str) -> int:
        return DEFAULT_DIMENSION

    def __contains__(self, key: object) -> bool:
        return True


def _cost(graph: Graph, op: Op, size_of: SizeOf, seen: set[int]) -> Any:
    """A `Cost`; its sizes are expressions where `size_of` gives some."""
    parameters = size = 0
    for name, tensor, type_ in stored_types(op):
        if id(tensor) not in seen:
            seen.add(id(tensor))
            size += tensor.numel() * tensor.element_size()
            local = name.rpartition(".")[2]
            if op.kind != "constant" and local not in _STATISTICS and not is_scaling(local):
                parameters += type_.numel({})
    return Cost(parameters, size, macs(graph, op, size_of) or 0, result_bytes(op, size_of))


def result_bytes(op: Op, size_of: SizeOf) -> Any:
    """Bytes of an op's result, of all its items where it has several."""
    types = op.type.items if isinstance(op.type, TupleType) else (op.type,)
    total: Any = 0
    for type_ in types:
        if isinstance(type_, TensorType):
            count: Any = type_.dtype.itemsize
            for size in type_.shape:
                count = count * size_of(size)
            total = total + count
    return total
