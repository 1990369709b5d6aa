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
from compressc.ir import Graph
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
    require_alike(made, graph, "CC207", reference, who="a student", whose="its teacher")
    replace_body(graph, made)


def _traced(graph: Graph, reference: str, ctx: Context) -> Graph:
    """The user's model as a graph, traced with the teacher's inputs."""
    example = None if ctx.data is None else ctx.data.calibration.take(_TRACED).inputs
    place = reference.rpartition(":")[0]
    places = [Path.cwd(), *([Path(place).parent] if place.endswith(".py") else [])]
    with ExitStack() as stack:
        for folder in places:
            stack.enter_context(importable(folder))
        module = run_factory(reference, "option 'factory' of pass 'student'").eval()
        made = load_model(module, example=example, input_spec=_specs(graph, module)).graph
    symbolize_widths(made)
    return made


def _specs(graph: Graph, module: nn.Module) -> list[str]:
    """The teacher's inputs in words: by name where the module has all names, else in order."""
    known = inspect.signature(module.forward).parameters
    named = all(op.name in known for op in graph.inputs)
    return [f"{op.name}: {op.type}" if named else str(op.type) for op in graph.inputs]
