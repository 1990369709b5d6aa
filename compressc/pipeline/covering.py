"""Asking passes what they can do with a graph: no answer is made up, and none can crash the ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from compressc.analysis.coverage import Coverage, Verdict, parameters_of, summarize
from compressc.errors import CompresscError, first_line
from compressc.ir import Graph
from compressc.pipeline.options import parse_pass
from compressc.pipeline.pass_ import Context, Pass
from compressc.pipeline.samples import TransferSet
from compressc.pipeline.seeding import seeded


def cover(
    passes: Sequence[Pass], graph: Graph, data: TransferSet | None = None, seed: int = 0
) -> list[Coverage]:
    """What each pass can do with each op, every pass by itself on the graph as it is.

    A pass with a prelude (`quant` runs `simplify` first) is asked about the graph after that
    prelude; ops that the prelude takes away count as what the pass does.

    Args:
        passes: with their options, which count.
        graph: not changed.
        data: for passes that need to look at some; without it they say what can be said.
        seed: of the context.

    Returns:
        One coverage for each pass; where a pass fails to answer, every verdict says so.
    """
    return [_cover_one(pass_, graph, data, seed) for pass_ in passes]


def _cover_one(pass_: Pass, graph: Graph, data: TransferSet | None, seed: int) -> Coverage:
    try:
        found = _asked(pass_, graph, data, seed)
    except CompresscError as error:
        found = _unknown(graph, f"does not say: {error}")
    except Exception as error:  # a stranger's pass may raise anything
        found = _unknown(graph, f"does not say: its coverage failed ({first_line(error)})")
    return summarize(graph, pass_.text, found)


def _asked(pass_: Pass, graph: Graph, data: TransferSet | None, seed: int) -> Mapping[str, Verdict]:
    asked = graph
    for name in pass_.prelude:
        asked = asked.copy()
        context = Context(graph, data, seed)
        with seeded(seed), torch.enable_grad():
            parse_pass(name).run(asked, context)
    context = Context(graph, data, seed)
    with seeded(seed):
        answer: Any = pass_.coverage(asked, context)
    if not isinstance(answer, Mapping) or not all(
        isinstance(verdict, Verdict) for verdict in answer.values()
    ):
        return _unknown(graph, "does not say: its coverage is no mapping of op names to verdicts")
    first = ", ".join(pass_.prelude)
    gone = {
        op.name: Verdict.does(
            f"removed by {first}, which runs first", *(name for name, _ in parameters_of(op))
        )
        for op in graph
        if op.name not in asked
    }
    return {**answer, **gone}


def _unknown(graph: Graph, reason: str) -> dict[str, Verdict]:
    return {op.name: Verdict.unknown(reason) for op in graph}
