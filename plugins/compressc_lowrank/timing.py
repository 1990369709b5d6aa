"""Thin layers beside the wide one that they replace, in the runtime that the result is for."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compressc.analysis import sizes_of
from compressc.backend import Backend, Runner, load_backend
from compressc.backend.threads import torch_threads
from compressc.errors import CompresscError
from compressc.ir import Graph, Op, Ref, TensorType, dimension_symbols, evaluate, retype, symbol
from compressc.measure import Speedup, measure_latency, speedup
from compressc.pipeline import Context
from compressc_lowrank.factorizing import factorize
from compressc_lowrank.planning import Plan

#: The runtime that is asked first: the others run the same products by the same libraries.
PREFERRED = "onnx"
#: Undisturbed samples of each, and the seconds that they may take.
ROUNDS, SECONDS = 21, 2.0


def slower(graph: Graph, plans: Mapping[str, Plan | str], ctx: Context) -> dict[str, Plan | str]:
    """The layers whose chain does not measure faster, with the reason.

    A chain stays where the 10th to 90th percentile of the ratio lies above 1 for one batch size of
    the target at least, and below 1 for none. Layers of the same shape are measured once.

    Args:
        graph: holds the layers; not changed.
        plans: for them.
        ctx: of the pass; what was measured goes on record.

    Raises:
        CompresscError: CC107 for a target without a back end of that name.
    """
    names = ctx.target.backends
    backend = load_backend(PREFERRED if PREFERRED in names or not names else names[0])
    chains = {name: plan for name, plan in plans.items() if isinstance(plan, Plan)}
    known: dict[Any, str] = {}
    rows: list[dict[str, Any]] = []
    found: dict[str, Plan | str] = {}
    for done, (name, plan) in enumerate(chains.items()):
        ctx.progress("timing layers", done, len(chains))
        op, examples = graph[name], _examples(graph, graph[name], ctx)
        key = (str(plan), repr(op.layer), [tuple(x.shape) for x in examples.values()])
        if (text := str(key)) not in known:
            try:
                ratios = _ratios(backend, op, plan, examples, ctx.target.threads)
                known[text] = _judged(ratios, backend.runtime)
            except CompresscError as error:  # a layer that the runtime does not take by itself
                ratios, known[text] = {}, f"{backend.runtime} cannot time it: {error}"
            rows += [
                {"layer": name, "rank": str(plan), "batch": batch, **ratio.model_dump()}
                for batch, ratio in ratios.items()
            ]
        if known[text]:
            found[name] = known[text]
    ctx.record("layer speed-ups", rows)
    return found


def _judged(ratios: Mapping[int, Speedup], runtime: str) -> str:
    """Why a layer is left dense, or nothing."""
    verdicts = {ratio.verdict for ratio in ratios.values()}
    if "faster" in verdicts and "slower" not in verdicts:
        return ""
    texts = (f"{r.ratio:.2f}x ({r.low:.2f}-{r.high:.2f}) at {n}" for n, r in ratios.items())
    return f"thin layers are not faster in {runtime}: {', '.join(texts)}"


def _examples(graph: Graph, op: Op, ctx: Context) -> dict[int, Tensor]:
    """Batch size of the target -> an input of the op at it."""
    places = dimension_symbols(graph)
    type_ = graph.type_of(op.inputs[0])
    found = {}
    for batch in ctx.target.batches:
        first = {name: batch for name, (_, dim) in places.items() if dim == 0}
        env = graph.size_env(**sizes_of(graph, ctx.example()) | first)
        shape = [int(evaluate(size, env)) for size in type_.shape]
        generator = ctx.generator()
        if type_.dtype.is_floating_point:
            found[batch] = torch.randn(shape, generator=generator).to(type_.dtype)
        else:
            layer: Any = op.layer
            found[batch] = torch.randint(layer.num_embeddings, shape, generator=generator)
    return found


def _ratios(
    backend: Backend, op: Op, plan: Plan, examples: Mapping[int, Tensor], threads: int
) -> dict[int, Speedup]:
    """Speed-up of the chain at each batch size, interleaved."""
    found = {}
    dense = _alone(op, next(iter(examples.values())))
    chain = dense.copy()
    factorize(chain, chain["layer"], plan, None, Context(chain))
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[str, Runner] = {}
        for name, graph in (("dense", dense), ("chain", chain)):
            path = backend.emit(graph, Path(folder) / name, (next(iter(examples.values())),))
            runs[name] = backend.load(path, threads)
        for batch, example in examples.items():
            calls = {name: partial(run, example) for name, run in runs.items()}
            with torch_threads(threads):
                spreads = measure_latency(calls, rounds=ROUNDS, budget_s=SECONDS, threads=threads)
            found[batch] = speedup(spreads["dense"], spreads["chain"])
    return found


def _alone(op: Op, example: Tensor) -> Graph:
    """A graph of one layer, open in the first dimension of its input."""
    graph = Graph("layer")
    shape = (symbol("b"), *example.shape[1:])
    graph.append(Op("x", "input", type=TensorType(example.dtype, shape)))
    graph.append(Op("layer", op.kind, (Ref("x"),), layer=op.layer, lineage=("layer",)))
    graph.outputs = Ref("layer")
    if op.role == "recurrent":
        graph.append(Op("sequence", "getitem", (Ref("layer"), 0), lineage=("layer",)))
        graph.outputs = Ref("sequence")
    retype(graph)
    return graph
