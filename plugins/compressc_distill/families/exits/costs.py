"""What a sample costs that leaves at an exit: multiply-accumulates, and time in a runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import networkx as nx

from compressc.analysis import op_costs, sizes_of
from compressc.backend import Runner, load_backend
from compressc.backend.threads import torch_threads
from compressc.editing import erase_unread
from compressc.ir import Graph, Ref
from compressc.measure import measure_latency
from compressc.pipeline import Context

#: The runtime that is asked first: its files have the branches.
PREFERRED = "onnx"
#: Undisturbed samples of each part of the model, and the seconds that they may take.
ROUNDS, SECONDS = 21, 4.0


@dataclass(frozen=True)
class Times:
    """Milliseconds of one sample up to each exit and to the output, and without any exit."""

    runtime: str
    up_to: list[float]
    without: float


def costs_of(
    plain: Graph, graph: Graph, ends: Sequence[str], ctx: Context
) -> tuple[list[int], int]:
    """Multiply-accumulates of a sample up to each end, all before it among them; and without heads.

    Args:
        plain: the graph without heads.
        graph: with them.
        ends: class scores of the heads, in order, and of the output.
        ctx: has an example, for sizes.
    """
    costs = op_costs(graph, **sizes_of(graph, ctx.example()))
    found, spent = [], set[str]()
    for end in ends:
        spent |= {*nx.ancestors(graph.dag, end), end}
        found.append(sum(costs[name].macs for name in spent))
    whole = op_costs(plain, **sizes_of(plain, ctx.example()))
    return found, sum(cost.macs for cost in whole.values())


def milliseconds(plain: Graph, graph: Graph, ends: Sequence[str], ctx: Context) -> Times:
    """Latency of one sample up to each end, side by side, in the runtime of the target.

    Args:
        plain, graph, ends, ctx: as for `costs_of`.

    Raises:
        CompresscError: CC503 or CC504 where the runtime does not take a part.
    """
    names = ctx.target.backends
    backend = load_backend(PREFERRED if PREFERRED in names or not names else names[0])
    example = ctx.require_data("exits").calibration.take(1).inputs
    parts = {"without": plain}
    for number in range(len(ends)):
        part = parts[str(number)] = graph.copy()
        part.outputs = tuple(Ref(name) for name in ends[: number + 1])
        erase_unread(part)
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[str, Runner] = {}
        for done, (name, part) in enumerate(parts.items()):
            ctx.progress("timing exits", done, len(parts))
            path = backend.emit(part, Path(folder) / name, example)
            runs[name] = backend.load(path, ctx.target.threads)
        calls = {name: partial(run, *example) for name, run in runs.items()}
        with torch_threads(ctx.target.threads):
            spreads = measure_latency(
                calls, rounds=ROUNDS, budget_s=SECONDS, threads=ctx.target.threads
            )
    found = {name: spread.median_ms for name, spread in spreads.items()}
    return Times(backend.runtime, [found[str(i)] for i in range(len(ends))], found["without"])
