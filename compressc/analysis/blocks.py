"""Repeated blocks: the layers of a transformer, the units of a stage, and blocks within blocks.

A block is a stretch of the execution order that comes again right behind itself: the same ops
(kind, attributes, types), wired alike. `repeats` finds stretches of equal labels; here they are
checked op by op, operand by operand, and cut where a block ends. Structure alone decides what is
found; names decide what it is called and, where structure leaves several ways to cut one repeat,
which of them is taken. Blocks of different widths are different blocks. Ops that hold a tensor are
no part of the order (the text puts them at their first reader): one that a block alone reads
belongs to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from compressc.analysis.block_names import BlockName, block_name, misfit
from compressc.analysis.cost import Cost, op_cost_terms, sum_sizes
from compressc.analysis.macs import multiplies
from compressc.analysis.repeats import Ints, Run, find_runs
from compressc.analysis.signatures import Signatures
from compressc.ir import Graph, Op, layer_tensors
from compressc.ir.types import Size

#: Two short stretches that happen to be alike say nothing: a pair of blocks has this many ops.
LEAST_OPS_OF_A_PAIR = 8
#: Several labels' periods may make one period of the wiring.
_MOST_MERGED = 4
#: Ways to cut are compared by name only where that is cheap.
_MOST_COMPARED = 200_000


@dataclass(frozen=True)
class Block:
    """A block and all of its members.

    Attributes:
        name: `encoder.layer.{0..11}`, or the first op's name where the names give no hint.
        count: how many members there are; in a nested block, those in every outer member.
        members: names of the ops of each, in corresponding order.
        parameters: of all members together; a tied tensor counts once.
        macs: of all members together, an expression of the open dimensions.
        parent: name of the innermost block that contains this one, or empty.
    """

    name: str
    count: int
    members: tuple[tuple[str, ...], ...]
    parameters: int
    macs: Size
    parent: str = ""


def find_blocks(graph: Graph) -> list[Block]:
    """The repeated blocks of a graph, outer ones before those inside them, in order.

    Args:
        graph: a typed graph; not changed.
    """
    order = _Order(graph)
    costs = op_cost_terms(graph)
    blocks: list[Block] = []
    taken: set[str] = set()
    for found, name, parent in order.blocks():
        unique, number = name, 1
        while unique in taken:
            number += 1
            unique = f"{name}#{number}"
        taken.add(unique)
        blocks.append(_block(order, found, unique, parent, costs))
    return blocks


def _block(order: _Order, found: _Found, name: str, parent: str, costs: dict[str, Cost]) -> Block:
    members = order.members(found)
    names = [name for member in members for name in member]
    parameters = sum(costs[name].parameters for name in names)
    macs = sum_sizes(costs[name].macs for name in names)
    return Block(name, len(members), members, parameters, macs, parent)


@dataclass(frozen=True)
class _Found:
    """Where the members of a block start in the order, and how many ops each has."""

    starts: tuple[int, ...]
    length: int


class _Order:
    """The execution order of a graph without inputs and held tensors, by position."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.ops = [op for op in graph if op.kind != "input" and op.role != "tensor"]
        place = {op.name: i for i, op in enumerate(self.ops)}
        #: Operands as positions; what is outside of the order is a name.
        self.sources: list[tuple[int | str, ...]] = [
            tuple(place.get(name, name) for name in op.inputs) for op in self.ops
        ]
        signatures = Signatures(graph)
        numbers: dict[str, int] = {}
        texts = (signatures.of(op) for op in self.ops)
        self.labels: Ints = np.array(
            [numbers.setdefault(text, len(numbers)) for text in texts], dtype=np.int64
        )
        self.last_read, self.readers = self._reads()
        self.works = np.array([_works(graph, op) for op in self.ops], dtype=bool)

    def _reads(self) -> tuple[Ints, Ints]:
        """The last position that reads each value, and how many do."""
        last = np.full(len(self.ops), -1, dtype=np.int64)
        readers = np.zeros(len(self.ops), dtype=np.int64)
        for position, sources in enumerate(self.sources):
            for source in sources:
                if isinstance(source, int):
                    last[source] = position
                    readers[source] += 1
        return last, readers

    # ---- finding -------------------------------------------------------------------------------

    def blocks(self) -> Iterator[tuple[_Found, str, str]]:
        """(members, name, name of the block around) from the outside in."""
        outside = _Found((0,), len(self.ops))
        yield from self._inside(outside, BlockName("", ""))

    def _inside(self, outer: _Found, around: BlockName) -> Iterator[tuple[_Found, str, str]]:
        """Blocks within the first member of a block, and so within all of them."""
        base = outer.starts[0]
        for start, count, period in self._repeats(base, base + outer.length):
            first = tuple(range(start, start + count * period, period))
            starts = tuple(s - base + o for o in outer.starts for s in first)
            named = block_name([self._names(s, period) for s in first])
            name = _within(named, around)
            yield _Found(starts, period), name.text, around.text
            yield from self._inside(_Found(starts, period), name)

    def _repeats(self, low: int, high: int) -> list[tuple[int, int, int]]:
        """(start, count, period) of disjoint repeats in a stretch, in order."""
        if high - low < 3:
            return []
        free = np.ones(high - low, dtype=bool)
        found = []
        for run in find_runs(self.labels[low:high]):
            for start, end in _free_pieces(free, run):
                for item in self._settle(Run(low + start, low + end, run.period)):
                    first, count, period = item
                    free[first - low : first - low + count * period] = False
                    found.append(item)
        return sorted(found)

    def _settle(self, run: Run) -> list[tuple[int, int, int]]:
        """The blocks that a run of equal labels holds when wiring is looked at, too."""
        length = run.end - run.start
        for period in range(run.period, _MOST_MERGED * run.period + 1, run.period):
            if 2 * period > length:
                break
            start = self._cut(Run(run.start, run.end, period))
            found = self._alike(start, (run.end - start) // period, period)
            if found:
                return found
        return []

    def _alike(self, start: int, count: int, period: int) -> list[tuple[int, int, int]]:
        """Neighbours that are wired alike, as long rows as there are."""
        if not self.works[start : start + period].any():
            return []
        found, first = [], 0
        for i in range(1, count + 1):
            place = start + (i - 1) * period
            if i == count or not self._same_wiring(place, period):
                long_enough = (i - first) * period >= LEAST_OPS_OF_A_PAIR
                if i - first > 2 or (i - first == 2 and long_enough):
                    found.append((start + first * period, i - first, period))
                first = i
        return found

    def _same_wiring(self, start: int, period: int) -> bool:
        """Do two neighbours read the same: one op within, or one and the same value outside?"""
        there: dict[int | str, int | str] = {}
        back: dict[int | str, int | str] = {}
        for position in range(start, start + period):
            pairs = zip(self.sources[position], self.sources[position + period], strict=True)
            for a, b in pairs:
                inner_a = isinstance(a, int) and a >= start
                inner_b = isinstance(b, int) and b >= start + period
                if inner_a != inner_b:
                    return False
                if isinstance(a, int) and isinstance(b, int) and inner_a:
                    if b - a != period:
                        return False
                elif there.setdefault(a, b) != b or back.setdefault(b, a) != a:
                    return False
        return True

    def _cut(self, run: Run) -> int:
        """Where the first block of a run starts, if it could start at several places.

        Most whole blocks first; then the fewest values that go from one block to the next; then
        the value with the most readers (what a block takes in feeds a branch and a residual); then
        the names; then the first.
        """
        slack = (run.end - run.start) % run.period
        if not slack:
            return run.start
        begin, end = run.start, run.start + 2 * run.period
        defined = np.arange(begin, end)
        last = np.minimum(self.last_read[begin:end], end)
        live = last >= 0
        crossing = np.zeros(end - begin + 2, dtype=np.int64)
        reading = np.zeros_like(crossing)
        for table, weight in (
            (crossing, np.ones_like(defined)),
            (reading, self.readers[begin:end]),
        ):
            np.add.at(table, defined[live] - begin + 1, weight[live])
            np.add.at(table, last[live] - begin + 1, -weight[live])
        borders = slice(run.period, run.period + slack + 1)
        few, read = np.cumsum(crossing)[borders], np.cumsum(reading)[borders]
        best = np.flatnonzero(few == few.min())
        best = best[read[best] == read[best].max()]
        return begin + self._best_named(begin, [int(i) for i in best], run.period)

    def _best_named(self, begin: int, shifts: Sequence[int], period: int) -> int:
        """The first of those shifts at which the names of two blocks differ in one place."""
        if len(shifts) * period > _MOST_COMPARED:
            return shifts[0]

        def score(shift: int) -> int:
            start = begin + shift
            return misfit(self._names(start, period), self._names(start + period, period))

        return min(shifts, key=score)

    # ---- members -------------------------------------------------------------------------------

    def _names(self, start: int, length: int) -> list[str]:
        return [op.name for op in self.ops[start : start + length]]

    def members(self, found: _Found) -> tuple[tuple[str, ...], ...]:
        """The names of each member's ops; a tensor that each member has to itself is in front."""
        bodies = [self._names(start, found.length) for start in found.starts]
        own = [self._own_leaves(body) for body in bodies]
        private = [all(leaves[i] is not None for leaves in own) for i in range(len(own[0]))]
        return tuple(
            tuple(name for name, keep in zip(leaves, private, strict=True) if keep and name)
            + tuple(body)
            for leaves, body in zip(own, bodies, strict=True)
        )

    def _own_leaves(self, body: list[str]) -> list[str | None]:
        """For each operand that is a held tensor: its name where nobody else reads it."""
        inside = set(body)
        found: list[str | None] = []
        seen: set[str] = set()
        for name in body:
            for source in self.graph[name].inputs:
                if self.graph[source].role == "tensor":
                    users = self.graph.dag.successors(source)
                    own = source not in seen and all(user in inside for user in users)
                    found.append(source if own else None)
                    seen.add(source)
        return found


def _works(graph: Graph, op: Op) -> bool:
    """Does the op hold weights or multiply? A repeat of nothing but views is no block."""
    if op.layer is not None and layer_tensors(op.layer):
        return True
    if multiplies(op):
        return True
    return any(graph[name].kind == "parameter" for name in op.inputs)


def _free_pieces(free: np.ndarray, run: Run) -> list[tuple[int, int]]:
    """The parts of a run that are not in a block yet and hold two periods."""
    window = free[run.start : run.end]
    if window.all():
        return [(run.start, run.end)]
    edges = np.flatnonzero(np.diff(np.concatenate(([0], window.astype(np.int8), [0]))))
    pairs = edges.reshape(-1, 2) + run.start
    return [(int(a), int(b)) for a, b in pairs if b - a >= 2 * run.period]


def _within(name: BlockName, around: BlockName) -> BlockName:
    """The name of a nested block: the outer name stands for the outer member's own."""
    for text in (around.first,) if around.first else ():
        if name.text == text or name.text.startswith(f"{text}."):
            return replace(name, text=around.text + name.text[len(text) :])
    return name
