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
        other: with as many inputs of the same types in the same order, whatever they are called,
            and as many outputs of the same types; its layers are taken over, and it is not to be
            used afterwards.
    """
    form = graph.outputs
    graph.outputs = ()
    for op in reversed(list(graph)):
        if op.kind != "input":
            graph.erase(op.name)
    graph.widths = dict(other.widths)
    pairs = zip(other.inputs, graph.inputs, strict=True)
    names = {theirs.name: ours.name for theirs, ours in pairs}

    def renamed(arg: Arg) -> Arg:
        return Ref(names[arg.name]) if isinstance(arg, Ref) else arg

    for op in other:
        if op.kind != "input":
            names[op.name] = graph.fresh_name(op.name)
            args, kwargs = map_arg(op.args, renamed), map_arg(op.kwargs, renamed)
            moved = replace(op, name=names[op.name], args=args, kwargs=kwargs)
            graph.append(replace(moved, lineage=(), kept={}))
    outputs = iter([names[ref.name] for ref in refs_of(other.outputs)])
    graph.outputs = map_arg(form, lambda arg: Ref(next(outputs)) if isinstance(arg, Ref) else arg)
