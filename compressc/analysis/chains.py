"""Chains: repeated blocks of which each takes on what the one before it gives.

A member of a chain can go: what it gives is replaced by what it takes, at corresponding places. So
a hidden state and a state beside it go around a block together. Blocks side by side (the towers of
two inputs, the branches of a cell) repeat, but make no chain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from compressc.analysis.blocks import Block, find_blocks
from compressc.ir import Graph


@dataclass(frozen=True)
class Chain:
    """Members in the order in which they compute.

    Attributes:
        name: of the repeated block, `encoder.layer.{0..11}`.
        members: names of the ops of each, in corresponding order.
        passed: positions in a member of the values that the next one takes on.
        entry: for each position in `passed`, the value that the first member takes in its place.
        held: member -> why it cannot go.
    """

    name: str
    members: tuple[tuple[str, ...], ...]
    passed: tuple[int, ...]
    entry: tuple[str, ...]
    held: dict[int, str]

    def __len__(self) -> int:
        return len(self.members)


def find_chains(graph: Graph) -> list[Chain]:
    """The outermost chains of a graph, in order.

    Where a repeated block makes no chain, those inside it are looked at.

    Args:
        graph: a typed graph; not changed.
    """
    blocks = find_blocks(graph)
    return list(_chains(graph, blocks, ""))


def _chains(graph: Graph, blocks: Sequence[Block], parent: str) -> Iterator[Chain]:
    for block in blocks:
        if block.parent == parent:
            found = list(_linked(graph, block))
            if found:
                yield from found
            else:
                yield from _chains(graph, blocks, block.name)


def _linked(graph: Graph, block: Block) -> Iterator[Chain]:
    """The rows of members in which each reads the one before it."""
    row: list[tuple[str, ...]] = []
    found = []
    for member in block.members:
        if row and not _passed(graph, row[-1], member):
            found.append(row)
            row = []
        row.append(member)
    found.append(row)
    rows = [row for row in found if len(row) > 1]
    for number, members in enumerate(rows, 1):
        name = block.name if len(rows) == 1 else f"{block.name} ({number} of {len(rows)})"
        if (chain := _chain(graph, name, members)) is not None:
            yield chain


def _passed(graph: Graph, first: Sequence[str], second: Sequence[str]) -> list[int]:
    """Positions of the values of one member that another reads."""
    read = {source for name in second for source in graph[name].inputs}
    return [i for i, name in enumerate(first) if name in read]


def _chain(graph: Graph, name: str, members: list[tuple[str, ...]]) -> Chain | None:
    passed = _passed(graph, members[0], members[1])
    taken = _counterparts(graph, members[1], members[0])
    entry = tuple(taken[members[0][i]] for i in passed)
    types = zip((graph[members[0][i]].type for i in passed), entry, strict=True)
    if any(type_ != graph[value].type for type_, value in types):
        return None
    held = {}
    for number, member in enumerate(members):
        if reason := _obstacle(graph, member, passed):
            held[number] = reason
    return Chain(name, tuple(members), tuple(passed), entry, held)


def _counterparts(graph: Graph, later: Sequence[str], earlier: Sequence[str]) -> dict[str, str]:
    """What one member reads -> what another reads in its place."""
    return {
        source: other
        for name, twin in zip(later, earlier, strict=True)
        for source, other in zip(graph[name].inputs, graph[twin].inputs, strict=True)
    }


def _obstacle(graph: Graph, member: Sequence[str], passed: Sequence[int]) -> str:
    """Why a member cannot go: somebody needs a value of it that is not passed on; or nothing."""
    own, returned = set(member), set(graph.output_names)
    for position, name in enumerate(member):
        if position in passed:
            continue
        readers = [user.name for user in graph.users(name) if user.name not in own]
        if readers or name in returned:
            reader = f"%{readers[0]} reads" if readers else "the model returns"
            return f"{reader} its %{name}, which stands for nothing that it takes"
    return ""
