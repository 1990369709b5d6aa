"""Ways to damage the edges of a graph and the order of its ops; see `ir_mutations`."""

from __future__ import annotations

from random import Random

from layer_mutations import (
    ops_of,
)

from compressc.ir import (
    Graph,
    Ref,
)
from compressc.ir.ops import map_arg


def drop_edge(graph: Graph, rng: Random) -> bool:
    graph.dag.remove_edge(*rng.choice(list(graph.dag.edges(keys=True))))
    return True


def add_edge(graph: Graph, rng: Random) -> bool:
    names = [op.name for op in graph]
    source, target = rng.choice(names), rng.choice(names)
    graph.dag.add_edge(source, target, key=rng.choice([0, 1, 7, 99]))
    return True


def rekey_edge(graph: Graph, rng: Random) -> bool:
    source, target, key = rng.choice(list(graph.dag.edges(keys=True)))
    graph.dag.remove_edge(source, target, key)
    graph.dag.add_edge(source, target, key=key + rng.choice([-1, 1, 5]))
    return True


def move_edge(graph: Graph, rng: Random) -> bool:
    source, target, key = rng.choice(list(graph.dag.edges(keys=True)))
    graph.dag.remove_edge(source, target, key)
    graph.dag.add_edge(rng.choice([op.name for op in graph]), target, key=key)
    return True


def operands_without_edges(graph: Graph, rng: Random) -> bool:
    op = rng.choice(ops_of(graph))
    names = [o.name for o in graph]
    op.args = map_arg(op.args, lambda a: Ref(rng.choice(names)) if isinstance(a, Ref) else a)
    return True


def other_operand(graph: Graph, rng: Random) -> bool:
    """A well-formed edit: another value, earlier or later."""
    op = rng.choice([op for op in ops_of(graph) if op.inputs])
    names = [o.name for o in graph if o is not op]
    one = rng.choice(op.inputs)
    other = Ref(rng.choice(names))
    args = map_arg(op.args, lambda a: other if a == Ref(one) else a)
    graph.set_inputs(op.name, args)
    return True


def swap_operands(graph: Graph, rng: Random) -> bool:
    ops = [op for op in ops_of(graph) if len([a for a in op.args if isinstance(a, Ref)]) > 1]
    if not ops:
        return False
    op = rng.choice(ops)
    places = [i for i, a in enumerate(op.args) if isinstance(a, Ref)]
    i, j = rng.sample(places, 2)
    args = list(op.args)
    args[i], args[j] = args[j], args[i]
    if rng.random() < 0.5:
        graph.set_inputs(op.name, tuple(args))
    else:
        op.args = tuple(args)
    return True


def cycle(graph: Graph, rng: Random) -> bool:
    pairs = [(op, user) for op in ops_of(graph) for user in graph.users(op.name) if op.args]
    if not pairs:
        return False
    op, user = rng.choice(pairs)
    graph.set_inputs(op.name, (Ref(user.name), *op.args[1:]))
    return True


def _place(graph: Graph, name: str, after: str) -> None:
    before, behind = graph._previous[name], graph._next[name]
    graph._next[before], graph._previous[behind] = behind, before
    following = graph._next[after]
    graph._next[after], graph._next[name] = name, following
    graph._previous[following], graph._previous[name] = name, after


def reorder(graph: Graph, rng: Random) -> bool:
    names = [op.name for op in graph]
    name = rng.choice(names)
    _place(graph, name, rng.choice([n for n in names if n != name] or [""]))
    return True


def loop_in_order(graph: Graph, rng: Random) -> bool:
    names = [op.name for op in graph]
    graph._next[rng.choice(names)] = rng.choice(names)
    return True


def broken_order(graph: Graph, rng: Random) -> bool:
    names = [op.name for op in graph]
    table = rng.choice([graph._next, graph._previous])
    name = rng.choice(names)
    match rng.choice(["gone", "nowhere", "end"]):
        case "gone":
            del table[name]
        case "nowhere":
            table[name] = "nowhere"
        case "end":
            table[name] = ""
    return True
