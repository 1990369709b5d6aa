"""Dropping blocks: some members of a chain go, and what read them reads what they took."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import sympy

from compressc.analysis.chains import Chain
from compressc.errors import CompresscError
from compressc.ir import PRODUCTS, Graph, Op
from compressc.ir.ops import Arg, map_arg


def drop_blocks(graph: Graph, chain: Chain, dropped: Collection[int]) -> list[str]:
    """Take members out of a chain.

    The end of the member in front of a gap stands for the teacher's value at the end of the gap:
    it is what the next member was trained to read. So does what the end follows from without a
    product: a sum in front of the norm that ends the block. Where nothing of the chain is in front,
    what comes in is no work of a block, and stands for what it always stood for.

    Args:
        graph: edited in place; a chain of this very graph.
        chain: see `find_chains`.
        dropped: numbers of members, counted from 0.

    Returns:
        The values in front of the gaps, which others read now.

    Raises:
        CompresscError: CC400 for a member that cannot go, or that is not there.
    """
    for number in sorted(dropped):
        reason = chain.held.get(number, "" if 0 <= number < len(chain) else "there is none")
        if reason:
            where = f"member {number} of {chain.name}"
            raise CompresscError("CC400", "this block cannot be dropped", got=reason, where=where)
    before, joined = chain.entry, dict[str, None]()
    tail = _tail(graph, chain)
    front: tuple[str, ...] = ()
    for number, member in enumerate(chain.members):
        ends = tuple(member[position] for position in chain.passed)
        if number not in dropped:
            before, front = ends, member
            continue
        for position in tail if front else ():
            _stand_for(graph, front[position], graph[member[position]])
        for end, value in zip(ends, before, strict=True):
            graph.redirect(end, value)
            joined[value] = None
    gone = [name for number in sorted(dropped) for name in chain.members[number]]
    _erase(graph, gone)
    erase_unread(graph)
    return [name for name in joined if name in graph]


def _tail(graph: Graph, chain: Chain) -> list[int]:
    """Positions of what members pass on, and of what that follows from by itself, no product."""
    places = {name: position for position, name in enumerate(chain.members[0])}
    found: dict[int, None] = {}
    for position in chain.passed:
        name = chain.members[0][position]
        while name in places:
            found[places[name]] = None
            op = graph[name]
            if len(op.inputs) != 1 or op.role in PRODUCTS:
                break
            name = op.inputs[0]
    return list(found)


def _stand_for(graph: Graph, name: str, teacher: Op) -> None:
    """A value takes the place of another one of the same type, and its lineage."""
    op = graph[name]
    others = [origin for origin in op.lineage if origin not in teacher.lineage]
    op.lineage = (*others, *teacher.lineage)
    op.kept = dict(teacher.kept)


def _erase(graph: Graph, names: Iterable[str]) -> None:
    """Erase ops that only read each other; a chain's members hold tensors in front of readers."""
    gone = set(names)
    for op in reversed(list(graph)):
        if op.name in gone:
            graph.erase(op.name)


def erase_unread(graph: Graph) -> None:
    """Erase what nothing reads but the inputs, and width symbols that no size is written with."""
    returned = set(graph.output_names)
    for op in reversed(list(graph)):
        if op.kind != "input" and op.name not in returned and not graph.users(op.name):
            graph.erase(op.name)
    used: set[str] = set()

    def see(arg: Arg) -> Arg:
        if isinstance(arg, sympy.Expr):
            used.update(map(str, arg.free_symbols))
        return arg

    for op in graph:
        map_arg((op.args, op.kwargs), see)
    for name in [name for name in graph.widths if name not in used]:
        del graph.widths[name]
