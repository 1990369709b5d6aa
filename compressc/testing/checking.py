"""`check_pass`: one call that a pass's own test can start with."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from compressc.analysis import symbolize_widths
from compressc.frontend import export_module, import_program
from compressc.ir import Graph, graph_hash, parse_graph, random_inputs, run_graph
from compressc.pipeline import Pass, Pipeline, TransferSet

#: Batch sizes that the result is run at.
BATCHES = (1, 3)


@dataclass(frozen=True)
class Checked:
    """What a pass did.

    Attributes:
        graph: the graph after it.
        edits: editing method of `Graph` -> how often it was called.
        notes: op -> what the pass noted about it, in order.
    """

    graph: Graph
    edits: dict[str, int] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)


def check_pass(pass_: Pass, graph: Graph, data: TransferSet | None = None) -> Checked:
    """Run a pass as a user's run would, and check what must hold of every pass.

    The pipeline checks that the graph stays well formed and finite, that inputs and outputs keep
    their types and, where the pass declares itself exact, that the outputs stay. Beyond that: the
    graph that was given is not touched, the same seed gives the same bytes, an edit was counted
    exactly if something changed, the text of the result reads back, and it runs at batch 1 and 3.

    Args:
        pass_: the pass with its options.
        graph: what to run it on; see `export_graph`.
        data: the transfer set, where the pass needs one.

    Raises:
        CompresscError: where the pipeline finds fault; the code says with what.
        AssertionError: where anything else does not hold.
    """
    origin = graph_hash(graph)
    (result,) = Pipeline([pass_], data).run(graph)[-1:]
    (again,) = Pipeline([pass_], data).run(graph)[-1:]
    made = graph_hash(result.graph)
    assert graph_hash(graph) == origin, "the graph that was given was edited"
    assert graph_hash(again.graph) == made, "the same seed gave another result"
    if pass_.prelude == ():
        changed = made != origin
        assert changed == bool(result.edits), f"changed: {changed}, edits: {result.edits}"
    _check_text(result.graph)
    for batch in BATCHES:
        run_graph(result.graph, random_inputs(result.graph, batch=batch))
    notes: dict[str, list[str]] = {}
    for op, text in result.notes:
        notes.setdefault(op, []).append(text)
    return Checked(result.graph, result.edits, notes)


def _check_text(graph: Graph) -> None:
    text = str(graph)
    again = parse_graph(text, graph.tensors())
    assert str(again) == text, "the text of the result reads back as another"
    inputs = random_inputs(graph)
    for got, want in zip(run_graph(again, inputs), run_graph(graph, inputs), strict=True):
        assert torch.equal(got, want), "the graph that is read back computes something else"


def export_graph(module: nn.Module, *example: torch.Tensor, name: str = "model") -> Graph:
    """The graph of a module as a run has it: raised, sizes written over width symbols.

    Args:
        module: any module; traced in eval mode.
        example: its inputs; their first dimension is left open.
        name: of the graph.

    Raises:
        CompresscError: CC202 or CC204 where the module cannot be traced.
    """
    graph = import_program(export_module(module, example), name)
    symbolize_widths(graph)
    return graph
