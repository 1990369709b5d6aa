"""Replacing everything between the inputs and the outputs of a graph."""

from __future__ import annotations

from dataclasses import replace

from compressc.ir import Graph, Ref
from compressc.ir.ops import Arg, map_arg, refs_of


def replace_body(graph: Graph, other: Graph) -> None:
    """Let a graph compute what another one does; its inputs and the form of its outputs stay.

    Nothing of the new body descends from the teacher: its lineage is empty.

    Args:
        graph: edited in place.
        other: with inputs of the same names and types, and as many outputs of the same types; its
            layers are taken over, and it is not to be used afterwards.
    """
    outputs = iter([ref.name for ref in refs_of(other.outputs)])
    form = graph.outputs
    graph.outputs = ()
    for op in reversed(list(graph)):
        if op.kind != "input":
            graph.erase(op.name)
    graph.widths = dict(other.widths)
    for op in other:
        if op.kind != "input":
            graph.append(replace(op, lineage=(), kept={}))

    def named(arg: Arg) -> Arg:
        return Ref(next(outputs)) if isinstance(arg, Ref) else arg

    graph.outputs = map_arg(form, named)
