"""What fewer blocks mean for each op of a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compressc.analysis.coverage import Verdict, parameters_of
from compressc.ir import Graph, Op


def tensors_of(op: Op) -> tuple[str, ...]:
    """Local names of what an op has learned."""
    return tuple(name for name, _ in parameters_of(op))


def dropped(graph: Graph, left: Graph) -> dict[str, Verdict]:
    """Which ops of a graph are gone from what is left of it."""
    return {
        op.name: Verdict.idle("stays, with the teacher's weights")
        if op.name in left
        else Verdict.does("goes with its block", *tensors_of(op))
        for op in graph
    }


def merged(graph: Graph, found: Sequence[Mapping[str, Verdict]]) -> dict[str, Verdict]:
    """One verdict of several steps: what any of them does is done, else the last one's reason."""
    complete = {}
    for op in graph:
        said = [verdicts[op.name] for verdicts in found if op.name in verdicts]
        does = [verdict for verdict in said if verdict.outcome == "does"]
        texts = "; ".join(verdict.text for verdict in does)
        tensors = {name for verdict in does for name in verdict.tensors}
        complete[op.name] = Verdict.does(texts, *sorted(tensors)) if does else said[-1]
    return complete
