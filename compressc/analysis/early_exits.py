"""Early exits of a graph: answers that are taken where they are sure, in place of later ones."""

from __future__ import annotations

from dataclasses import dataclass

from compressc.ir import Graph, Ref


@dataclass(frozen=True)
class EarlyExit:
    """`choice = where(max softmax(early) >= threshold, early, late)`, row by row.

    Attributes:
        choice: name of what is handed on, `[b, c]`.
        early: name of the class scores of the exit, `[b, c]`.
        late: name of those that are computed where the exit is not sure, `[b, c]`.
        threshold: the least share of its best class that the exit is taken at.
    """

    choice: str
    early: str
    late: str
    threshold: float


def find_early_exits(graph: Graph) -> list[EarlyExit]:
    """All of them, by what they compute, in the order in which a sample may leave.

    They are made by `compressc.editing.choose_early`; a choice stands behind those it contains.
    """
    found = [exit_ for op in graph if (exit_ := _exit(graph, op.name)) is not None]
    return found[::-1]


def _exit(graph: Graph, name: str) -> EarlyExit | None:
    choice = graph[name]
    if choice.kind != "aten.where.self" or not all(isinstance(arg, Ref) for arg in choice.args):
        return None
    sure, early, late = (graph[arg.name] for arg in choice.args)
    if sure.kind != "aten.ge.Scalar" or graph[sure.inputs[0]].kind != "aten.amax":
        return None
    share = graph[graph[sure.inputs[0]].inputs[0]]
    if share.packet != "aten.softmax" or share.inputs != (early.name,):
        return None
    return EarlyExit(name, early.name, late.name, float(sure.args[1]))
