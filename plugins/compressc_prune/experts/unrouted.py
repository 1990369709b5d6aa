"""What an expert that is never chosen adds: nothing; which ops are left without it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from compressc.analysis.arguments import argument
from compressc.editing.drop_blocks import erase_unread
from compressc.ir import Graph, Op, Ref
from compressc.ir.moves import MOVES
from compressc_prune.experts.routing import Experts, NoExperts

#: Of no other result than 0 where one operand is.
_BY_ANY = ("aten.mul", "aten.bitwise_and", "aten.logical_and")
#: Of no other result than 0 where the first operand is.
_BY_FIRST = ("aten.div", "aten.sum", "aten.mean", "aten.amax", "aten.any", "aten.neg", "aten.relu")
_ZEROS = ("aten.zeros_like", "aten.zeros", "aten.new_zeros")


@dataclass
class Nothing:
    """Values that are 0 without some experts, and those that others stand for then.

    Attributes:
        zero: names.
        instead: value -> the one that it is the same as.
    """

    zero: set[str] = field(default_factory=set)
    instead: dict[str, str] = field(default_factory=dict)


def nothing_of(graph: Graph, experts: Experts, gone: Collection[int]) -> Nothing:
    """What the picks of experts that are never chosen come to.

    Raises:
        NoExperts: where something else than a sum takes them up.
    """
    found = Nothing({name for name, number in experts.picks.items() if number in gone})
    waiting = list(found.zero)
    while waiting:
        for op in graph.users(waiting.pop()):
            if op.name in found.zero:
                continue
            instead = _instead(graph, op, found)
            if instead is None:
                raise NoExperts(f"%{op.name} reads what one expert is weighted with")
            if not instead:
                found.zero.add(op.name)
                found.instead.pop(op.name, None)
                waiting.append(op.name)
            else:
                found.instead[op.name] = instead
    if found.zero.intersection(graph.output_names):
        raise NoExperts("what one expert is weighted with is an output")
    return found


def _instead(graph: Graph, op: Op, found: Nothing) -> str | None:
    """The value that an op is the same as; nothing where it is 0, None where neither."""

    def zero(arg: object) -> bool:
        if isinstance(arg, Ref):
            return arg.name in found.zero or graph[arg.name].packet in _ZEROS
        return arg == 0 and not isinstance(arg, bool)

    first = op.args[0] if op.args else None
    moves = MOVES.get(op.packet) in ("same", "cast", "ones", "reorder", "reshape", "copies")
    if moves or op.packet in _BY_ANY or (op.packet in _BY_FIRST and zero(first)):
        return ""
    kept: object = None
    if op.packet == "aten.where":
        kept = op.args[2]
    elif op.packet == "aten.masked_fill":
        kept = first if zero(argument(op, "mask")) else None
    elif op.packet in ("aten.add", "aten.sub"):
        other = op.args[1]
        kept = first if zero(other) else (other if op.packet == "aten.add" else None)
        if argument(op, "alpha") not in (None, 1) and kept is other:
            return None
    if kept is None or (op.packet == "aten.where" and not zero(first)):
        return None
    if zero(kept):
        return ""
    if not isinstance(kept, Ref) or graph[kept.name].type != op.type:
        return None
    return kept.name


def drop(graph: Graph, experts: Experts, gone: Collection[int]) -> None:
    """Take out what only some experts compute, and their terms of sums.

    Raises:
        NoExperts: see `nothing_of`; then nothing is changed.
    """
    found = nothing_of(graph, experts, gone)
    for old in [op.name for op in graph if op.name in found.instead]:
        new = found.instead[old]
        while new in found.instead:
            new = found.instead[new]
        graph.redirect(old, new)
    for name in experts.lists:
        items, *rest = graph[name].args
        left = tuple(item for number, item in enumerate(items) if number not in gone)
        graph.set_inputs(name, (left, *rest))
    erase_unread(graph)


def computed_by(graph: Graph, experts: Experts, number: int) -> set[str]:
    """Ops that nothing but one expert needs."""
    found = nothing_of(graph, experts, {number})
    gone = {*found.zero, *found.instead}
    inside = {graph[name].args[0][number].name for name in experts.lists}
    waiting = [*inside, *gone]

    def unread(name: str) -> bool:
        users = graph.users(name)
        others = {user.name for user in users} - gone
        within = name in inside and others <= set(experts.lists)
        return (not others or within) and name not in graph.output_names

    while waiting:
        name = waiting.pop()
        if name not in gone:
            if not unread(name) or graph[name].kind == "input":
                continue
            gone.add(name)
        waiting += [i for i in graph[name].inputs if i not in gone and i != found.instead.get(name)]
    return gone - set(found.instead)


def own_ops(graph: Graph, experts: Experts, numbers: Iterable[int]) -> dict[str, int]:
    """Op -> the only expert that needs it."""
    if not experts.picks and not experts.lists:
        return {}
    return {name: n for n in numbers for name in computed_by(graph, experts, n)}
