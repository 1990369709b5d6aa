"""Which ops of one graph stand for which of another, by the teacher ops they descend from."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from compressc.ir import Graph, Op


@dataclass(frozen=True)
class Kin:
    """Ops of two graphs that descend from the same teacher ops.

    Attributes:
        before: ops of the first graph, in order; none where the second has something new.
        after: ops of the second graph, in order; none where something is gone.
    """

    before: tuple[Op, ...]
    after: tuple[Op, ...]


def match_kin(before: Graph, after: Graph) -> list[Kin]:
    """The ops of two graphs, put together by lineage.

    An op belongs to all teacher ops of its lineage, and to its own name where it has none: graphs
    that were loaded on their own are matched by name. So a convolution that a norm was folded
    into stands beside both, and the two factors of a layer beside the layer. Dots and underscores
    are one: an exported file writes `layer_0` for `layer.0`. Ops that find no kin so are matched
    where they are of one kind and read the same.

    Returns:
        Every op of either graph once, in the order of the first graph; what only the second has
        follows what stands in front of it there.
    """
    roots: dict[str, str] = {}
    for graph in (before, after):
        for op in graph:
            first, *rest = keys_of(op)
            for key in rest:
                roots[_root(roots, key)] = _root(roots, first)
    _match_readers(roots, before, after)
    groups: dict[str, tuple[list[Op], list[Op]]] = defaultdict(lambda: ([], []))
    for side, graph in enumerate((before, after)):
        for op in graph:
            groups[_root(roots, keys_of(op)[0])][side].append(op)
    order = _order(roots, before, after)
    return [Kin(tuple(groups[key][0]), tuple(groups[key][1])) for key in order]


def keys_of(op: Op) -> tuple[str, ...]:
    """What an op is matched by: its teacher ops, the one whose value it stands for in front."""
    names = tuple(reversed(op.lineage)) or (op.name,)
    return tuple(name.replace(".", "_") for name in names)


def _match_readers(roots: dict[str, str], before: Graph, after: Graph) -> None:
    """Give ops without kin the one that reads the same, from the inputs on."""
    known = [{_root(roots, keys_of(op)[0]) for op in graph} for graph in (before, after)]

    def strangers(graph: Graph, others: set[str]) -> list[Op]:
        found = [op for op in graph if _root(roots, keys_of(op)[0]) not in others]
        return [op for op in found if op.inputs]

    def reading(graph: Graph, op: Op) -> tuple[str, ...]:
        return op.kind, *(_root(roots, keys_of(graph[name])[0]) for name in op.inputs)

    waiting: dict[tuple[str, ...], list[Op]] = defaultdict(list)
    for op in strangers(before, known[1]):
        waiting[reading(before, op)].append(op)
    for op in strangers(after, known[0]):
        if candidates := waiting.get(reading(after, op)):
            roots[_root(roots, keys_of(op)[0])] = _root(roots, keys_of(candidates.pop(0))[0])


def _root(roots: dict[str, str], key: str) -> str:
    path = [key]
    while path[-1] in roots and roots[path[-1]] != path[-1]:
        path.append(roots[path[-1]])
    roots.update(dict.fromkeys(path, path[-1]))
    return path[-1]


def _order(roots: dict[str, str], before: Graph, after: Graph) -> list[str]:
    """Groups in the order of the first graph, new ones behind what they follow in the second."""
    order = list(dict.fromkeys(_root(roots, keys_of(op)[0]) for op in before))
    old, known = set(order), set(order)
    new: dict[str, list[str]] = defaultdict(list)
    last = ""
    for op in after:
        key = _root(roots, keys_of(op)[0])
        if key not in known:
            known.add(key)
            new[last].append(key)
        elif key in old:
            last = key
    return [*new.pop("", []), *(k for key in order for k in (key, *new.get(key, ())))]
