"""Splitting: one recurrent op of several layers becomes one op for each."""

from __future__ import annotations

from typing import Any

from compressc.ir import Graph, Op, Ref, layer_attributes, retype
from compressc.ir.layer_building import build_layer


def split_layers(graph: Graph, name: str) -> list[str]:
    """Make ops of the layers of a recurrent op, each reading the sequence that the last one gives.

    The graph computes what it did. The last layer has the name of the op, those below it `.l0`,
    `.l1` behind that; states that are given are shared out, those that are read are put together
    again. Dropout between layers becomes an op of its own.

    Args:
        graph: edited in place.
        name: of a recurrent op.

    Returns:
        The names of the layers, from the first one.
    """
    op = graph[name]
    layer: Any = op.layer
    sequence, *states = op.args
    names = layer_names(graph, name)
    last_states = [user for user in graph.users(name) if user.args[1] > 0]
    parts = [_part(op, number) for number in range(layer.num_layers)]
    for number, part in enumerate(names):
        given = tuple(_rows(graph, state, number, layer.directions, name) for state in states)
        if part == name:
            graph.set_layer(name, parts[number])
            graph.set_inputs(name, (sequence, *given))
            break
        graph.insert_before(name, Op(part, op.kind, (sequence, *given), layer=parts[number]))
        sequence = _sequence(graph, part, layer.dropout, name)
    for user in last_states:
        _join(graph, user, names)
    retype(graph)
    return names


def layer_names(graph: Graph, name: str) -> list[str]:
    """What `split_layers` calls the layers of an op."""
    layer: Any = graph[name].layer
    below = [graph.fresh_name(f"{name}.l{number}") for number in range(layer.num_layers - 1)]
    return [*below, name]


def _part(op: Op, number: int) -> Any:
    """One layer, with the tensors of the whole one."""
    layer: Any = op.layer
    width = layer.input_size if number == 0 else layer.hidden_size * layer.directions
    sizes = {"in": width, "layers": 1, "dropout": 0.0}
    part: Any = build_layer(op.kind, layer_attributes(op) | sizes)
    for slot in list(part.names()):
        setattr(part, slot, getattr(layer, slot.replace("_l0", f"_l{number}")))
    return part


def _rows(graph: Graph, state: Ref, number: int, directions: int, anchor: str) -> Ref:
    """The part of the given states that one layer starts from."""
    ends = number * directions, (number + 1) * directions
    fresh = graph.fresh_name(f"{anchor}.state")
    graph.insert_before(anchor, Op(fresh, "aten.slice.Tensor", (state, 0, *ends)))
    return Ref(fresh)


def _sequence(graph: Graph, part: str, dropout: float, anchor: str) -> Ref:
    """What the layer above reads."""
    fresh = graph.fresh_name(f"{part}.getitem")
    graph.insert_before(anchor, Op(fresh, "getitem", (Ref(part), 0)))
    if dropout:
        source, fresh = fresh, graph.fresh_name(f"{part}.dropout")
        layer = build_layer("dropout", {"p": dropout})
        graph.insert_before(anchor, Op(fresh, "dropout", (Ref(source),), layer=layer))
    return Ref(fresh)


def _join(graph: Graph, user: Op, names: list[str]) -> None:
    """A state that was that of all layers is put together of those of each."""
    found = []
    for part in names:
        fresh = graph.fresh_name(f"{part}.state")
        graph.insert_before(user.name, Op(fresh, "getitem", (Ref(part), user.args[1])))
        found.append(Ref(fresh))
    made = graph.fresh_name(f"{user.name}.all")
    graph.insert_after(user.name, Op(made, "aten.cat.default", (tuple(found), 0), type=user.type))
    graph.replace(user.name, made)
