"""Early exits in ONNX: what only unsure samples need is computed by the branch of an `If`.

A graph computes both answers of an early exit and takes one row by row. In the file the later
answer, and all that it alone needs, lies in the branch that runs where a row of the batch is not
sure. So one sample that is sure ends there; a batch does where all of it is. The numbers are those
of the graph, in any batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from compressc.backend.onnx_cleaning import names_read

#: What makes the condition of an early exit, from the last node to the first.
_SURE = ("GreaterOrEqual", "ReduceMax", "Softmax")


def branch(model: Any) -> int:
    """Put what an early exit spares into a branch, in place.

    Args:
        model: an `onnx.ModelProto` whose nodes are in order.

    Returns:
        How many exits there are.
    """
    graph = model.graph
    outputs = [value.name for value in graph.output]
    nodes, count = _branched(list(graph.node), outputs, itertools.count(1))
    del graph.node[:]
    graph.node.extend(nodes)
    return count


def _branched(
    nodes: list[Any], outputs: Sequence[str], numbers: Iterator[int]
) -> tuple[list[Any], int]:
    """Nodes with the last choice among them, which contains the others, in an `If`."""
    made_by = {name: node for node in nodes for name in node.output}
    choices = [node for node in nodes if _is_choice(node, made_by)]
    if not choices:
        return nodes, 0
    choice, number = choices[-1], next(numbers)
    sure, early, late = choice.input
    spared = _spared(nodes, choice, late, {*outputs, sure, early})
    inner = [node for node in nodes if id(node) in spared]
    inner, count = _branched(inner, [late], numbers)
    place = next(i for i, node in enumerate(nodes) if node is choice)
    kept = [node for node in nodes[:place] if id(node) not in spared]
    return [*kept, *_deciding(choice, inner, number), *nodes[place + 1 :]], count + 1


def _deciding(choice: Any, inner: Sequence[Any], number: int) -> list[Any]:
    """An `If` in the place of a choice, and what tells it whether all of the batch is sure."""
    from onnx import TensorProto, helper

    (sure, early, late), (result,) = choice.input, choice.output
    names = (f"{result}:{part}{number}" for part in ("early", "late", "flags", "least", "every"))
    taken, other, flags, least, every = names
    leave = [helper.make_node("Identity", [early], [taken])]
    go_on = [*inner, helper.make_node("Where", [sure, early, late], [other])]
    branches = {
        f"{which}_branch": helper.make_graph(
            nodes, f"exit{number}.{which}", [], [helper.make_empty_tensor_value_info(name)]
        )
        for which, nodes, name in (("then", leave, taken), ("else", go_on, other))
    }
    return [
        helper.make_node("Cast", [sure], [flags], to=TensorProto.INT32),
        helper.make_node("ReduceMin", [flags], [least], keepdims=0),
        helper.make_node("Cast", [least], [every], to=TensorProto.BOOL),
        helper.make_node("If", [every], [result], name=f"{result}:if{number}", **branches),
    ]


def _is_choice(node: Any, made_by: dict[str, Any]) -> bool:
    """Whether a node is `where(max softmax(early) >= threshold, early, late)`."""
    if node.op_type != "Where":
        return False
    name = node.input[0]
    for kind in _SURE:
        source = made_by.get(name)
        if source is None or source.op_type != kind:
            return False
        name = source.input[0]
    return bool(name == node.input[1])


def _spared(nodes: Sequence[Any], choice: Any, late: str, wanted: Collection[str]) -> set[int]:
    """`id` of the nodes that nothing needs but the later answer."""
    needed = set(wanted)
    for node in reversed(nodes):
        if node is not choice and needed & set(node.output):
            needed |= set(names_read([node]))
    behind = {late}
    found: set[int] = set()
    for node in reversed(nodes):
        if node is not choice and behind & set(node.output) and not needed & set(node.output):
            found.add(id(node))
            behind |= set(names_read([node]))
    return found
