"""A student of the user's own: any module that takes and gives what the teacher does."""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from pathlib import Path

from torch import nn

from compressc.analysis import symbolize_widths
from compressc.beside import importable
from compressc.editing import replace_body
from compressc.errors import CompresscError
from compressc.frontend import load_model
from compressc.frontend.formats.factory import run_factory
from compressc.ir import Graph
from compressc.ir.ops import refs_of
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
    _check_fit(made, graph, reference)
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


def _check_fit(made: Graph, graph: Graph, reference: str) -> None:
    """The same inputs, all sizes that the teacher takes, and the same outputs."""
    for what, got, wanted in (
        ("take", _inputs(made), _inputs(graph)),
        ("give", _outputs(made), _outputs(graph)),
    ):
        if got != wanted:
            raise _misfit(f"a student must {what} what its teacher does: {wanted}", got, reference)
    for name, (least, most) in made.limits.items():
        first, last = graph.limits.get(name, (1, None))
        if least > first or (most is not None and (last is None or most < last)):
            wanted = f"a student must take the sizes that its teacher does: {name} {first} to "
            got = f"{least} to {'any' if most is None else most}"
            raise _misfit(f"{wanted}{'any' if last is None else last}", got, reference)


def _misfit(wanted: str, got: str, reference: str) -> CompresscError:
    return CompresscError("CC207", wanted, got=got, where=reference)


def _inputs(graph: Graph) -> str:
    return ", ".join(str(op.type) for op in graph.inputs)


def _outputs(graph: Graph) -> str:
    return ", ".join(str(graph[ref.name].type) for ref in refs_of(graph.outputs))
