"""How much memory the activations take at once, by liveness over the execution order.

In eval mode a value dies behind its last reader; a view keeps its base alive; inputs belong to the
caller and outputs to the result, so both stay. Weights are not activations. What an operator
allocates for itself while it runs (an im2col buffer, say) is not seen here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sympy

from compressc.analysis.cost import open_sizes
from compressc.analysis.storage import HELD, Sharing, default_sizes, shared_storages
from compressc.ir import Graph, TensorType, TupleType, dimension_symbols, evaluate
from compressc.ir.types import Size, simplify_size

#: A formula that is the maximum of more terms than this says less than a number.
_MOST_TERMS = 2


@dataclass(frozen=True)
class Peak:
    """The most memory that activations take at once.

    Attributes:
        bytes: all of it, at the sizes asked for.
        op: the first op that runs while so much is alive.
        alive: (op whose result it is, bytes) of what is alive then, largest first.
    """

    bytes: int
    op: str
    alive: tuple[tuple[str, int], ...]


def peak_memory(graph: Graph, **dimensions: int) -> Peak:
    """Peak activation memory of one run in eval mode.

    Args:
        graph: a well-formed, typed graph.
        dimensions: sizes of the open dimensions; those not given take the least size allowed.

    Raises:
        CompresscError: CC204 where the model cannot be run at these sizes.
    """
    life = _Life(graph, shared_storages(graph, **dimensions))
    total = most = 0
    alive: set[int] = set()
    best: tuple[str, set[int]] = ("", set())
    for name, born, died in life.steps():
        alive |= born
        total += sum(life.bytes(number) for number in born)
        if total > most or not best[0]:
            most, best = total, (name, set(alive))
        alive -= died
        total -= sum(life.bytes(number) for number in died)
    rows = [(life.sharing.storages[number].owner, life.bytes(number)) for number in best[1]]
    return Peak(most, best[0], tuple(sorted(rows, key=lambda row: (-row[1], row[0]))))


def peak_formula(graph: Graph) -> Size | None:
    """Peak activation memory over the open dimensions, `peak_memory(...).bytes` at sizes above 1.

    At a size of 1 a copy may become a view: there the formula is an upper bound.

    Returns:
        An expression; a `Max` of two where the op at the peak depends on the sizes; None where it
        depends on them too much.
    """
    sizes = _generic_sizes(graph)
    life = _Life(graph, shared_storages(graph, **sizes))
    terms = _Terms(graph, life.sharing, sizes)
    total: Counter[Any] = Counter()
    seen: set[frozenset[tuple[Any, int]]] = set()
    for _, born, died in life.steps():
        for number in born:
            total.update(terms.of(number))
        seen.add(frozenset((term, count) for term, count in total.items() if count))
        for number in died:
            total.subtract(terms.of(number))
    largest = _maximal([dict(polynomial) for polynomial in seen], sizes)
    if len(largest) > _MOST_TERMS:
        return None
    return simplify_size(sympy.Max(*map(_expression, largest), evaluate=len(largest) == 1))


class _Life:
    """When each storage is made and when it is read for the last time."""

    def __init__(self, graph: Graph, sharing: Sharing) -> None:
        self.graph, self.sharing = graph, sharing
        self.last: dict[int, str] = {}
        for op in graph:
            for name in (op.name, *op.inputs):
                for number in sharing.of[name]:
                    self.last[number] = op.name
        kept = [*(op.name for op in graph.inputs), *graph.output_names]
        for name in kept:
            for number in sharing.of[name]:
                self.last.pop(number, None)

    def bytes(self, number: int) -> int:
        """Size of a storage."""
        return self.sharing.storages[number].bytes

    def steps(self) -> Iterator[tuple[str, set[int], set[int]]]:
        """For each op: what comes to life with its result, and what dies behind it."""
        dying: dict[str, set[int]] = {}
        for number, name in self.last.items():
            dying.setdefault(name, set()).add(number)
        known = {HELD}
        inputs = {number for op in self.graph.inputs for number in self.sharing.of[op.name]}
        for op in self.graph:  # the caller holds all inputs from the beginning
            born = (inputs | set(self.sharing.of[op.name])) - known
            known |= born
            yield op.name, born, dying.get(op.name, set()) - {HELD}


class _Terms:
    """Bytes of each storage as a polynomial: monomial -> coefficient."""

    def __init__(self, graph: Graph, sharing: Sharing, sizes: Mapping[str, int]) -> None:
        self.graph, self.sharing, self.sizes = graph, sharing, sizes
        self.size_of = open_sizes(graph)
        self.known: dict[TensorType, dict[Any, int]] = {}

    def of(self, number: int) -> dict[Any, int]:
        """The polynomial; a plain number where the memory is not what the type implies."""
        storage = self.sharing.storages[number]
        type_ = self.graph[storage.owner].type
        if isinstance(type_, TupleType):
            type_ = type_.items[storage.item]
        assert isinstance(type_, TensorType)
        if type_ not in self.known:
            self.known[type_] = self._polynomial(type_)
        found = self.known[type_]
        return found if _value(found, self.sizes) == storage.bytes else {1: storage.bytes}

    def _polynomial(self, type_: TensorType) -> dict[Any, int]:
        count = sympy.Integer(type_.dtype.itemsize)
        for size in type_.shape:
            count = count * self.size_of(size)
        terms = sympy.expand(count).as_coefficients_dict()
        return {1 if term == 1 else term: int(coefficient) for term, coefficient in terms.items()}


def _expression(polynomial: Mapping[Any, int]) -> Any:
    return sum((count * term for term, count in polynomial.items()), sympy.Integer(0))


def _value(polynomial: Mapping[Any, int], sizes: Mapping[str, int]) -> int:
    return sum(count * int(evaluate(term, sizes)) for term, count in polynomial.items())


def _maximal(polynomials: list[dict[Any, int]], sizes: Mapping[str, int]) -> list[dict[Any, int]]:
    """Those that no other is at least as large as, whatever the sizes."""
    found: list[dict[Any, int]] = []
    for polynomial in sorted(polynomials, key=lambda p: -_value(p, sizes)):
        if not any(_at_least(other, polynomial) for other in found):
            found.append(polynomial)
        if len(found) > _MOST_TERMS:
            break
    return found


def _at_least(large: Mapping[Any, int], small: Mapping[Any, int]) -> bool:
    """Is `large >= small` for all sizes of 1 and more? May say no where it is hard to see."""
    terms = {*large, *small}
    rest = {term: large.get(term, 0) - small.get(term, 0) for term in terms}
    if all(count >= 0 for count in rest.values()):
        return True
    difference = _expression(rest)
    symbols = list(difference.free_symbols)
    if not symbols or not difference.is_polynomial(*symbols):
        return False
    shifted = sympy.expand(difference.subs({s: s + 1 for s in symbols}, simultaneous=True))
    return all(count >= 0 for count in shifted.as_coefficients_dict().values())


def _generic_sizes(graph: Graph) -> dict[str, int]:
    """Sizes at which nothing is 1 and no two dimensions are equal, where the limits allow it."""
    found: dict[str, int] = {}
    least = default_sizes(graph)
    for name in dimension_symbols(graph):
        most = graph.limits.get(name, (1, None))[1]
        size = int(sympy.nextprime(max(30, least[name])))
        while size in found.values():
            size = int(sympy.nextprime(size))
        found[name] = size if most is None else min(size, most)
    return found
