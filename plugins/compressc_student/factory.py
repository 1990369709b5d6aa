"""A student of the user's own: any module that takes and gives what the teacher does."""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from pathlib import Path

from torch import nn

from compressc.analysis import require_alike, symbolize_widths
from compressc.beside import importable
from compressc.editing import replace_body
from compressc.frontend import load_model
from compressc.frontend.formats.factory import run_factory
from compressc.ir import Graph, Op
from compressc.pipeline import Context

#: Samples that it is traced with.
_TRACED = 8


def adopt(graph: Graph, reference: str, ctx: Context) -> None:
    """Put the model that a user's function builds in the place of the graph's body.

    Args:
        graph: edited in place.
        reference: `pkg.mod:function` or `file.py:function`, a function without arguments.
        ctx: gives samples to trace it with.

    Raises:
        CompresscError: CC100 where the function cannot be had, CC202 where its module cannot be
            traced, CC204 or CC207 where it takes or gives something else than the teacher.
    """
    made = _traced(graph, reference, ctx)
    _take_all(made, graph)
    require_alike(made, graph, "CC207", reference, who="a student", whose="its teacher")
    replace_body(graph, made)


def _traced(graph: Graph, reference: str, ctx: Context) -> Graph:
    """The user's model as a graph, traced with the teacher's inputs, or those that it has."""
    place = reference.rpartition(":")[0]
    places = [Path.cwd(), *([Path(place).parent] if place.endswith(".py") else [])]
    with ExitStack() as stack:
        for folder in places:
            stack.enter_context(importable(folder))
        module = run_factory(reference, "option 'factory' of pass 'student'").eval()
        taken = _taken(graph, module)
        example = None
        if ctx.data is not None:
            few = ctx.data.calibration.take(_TRACED).inputs
            pairs = zip(few, graph.inputs, strict=True)
            example = tuple(x for x, op in pairs if op.name in taken)
        made = load_model(module, example=example, input_spec=_specs(graph, module, taken)).graph
    symbolize_widths(made)
    return made


def _taken(graph: Graph, module: nn.Module) -> list[str]:
    """Inputs of the run's model that a module takes: all, or those whose names it has."""
    known = inspect.signature(module.forward).parameters
    names = [op.name for op in graph.inputs]
    found = [name for name in names if name in known]
    return found if found and len(known) < len(names) else names


def _specs(graph: Graph, module: nn.Module, taken: list[str]) -> list[str]:
    """Inputs in words: by name where the module has all names, else in order."""
    known = inspect.signature(module.forward).parameters
    wanted = [op for op in graph.inputs if op.name in taken]
    named = all(op.name in known for op in wanted)
    return [f"{op.name}: {op.type}" if named else str(op.type) for op in wanted]


def _take_all(made: Graph, graph: Graph) -> None:
    """Let a student of some inputs take all that its teacher does: the others are read nowhere."""
    if len(made.inputs) == len(graph.inputs):
        return
    behind = ""
    for op in graph.inputs:
        if op.name in made:
            behind = op.name
        else:
            more = Op(op.name, "input", type=op.type)
            if behind:
                made.insert_after(behind, more)
            else:
                made.insert_before(made.inputs[0].name, more)
            behind = op.name
