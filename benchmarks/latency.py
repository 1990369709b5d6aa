"""Predicted against measured time of random cuts: python benchmarks/latency.py MODEL --data DATA

Every width of the model gets a random number of channels, `--cuts` times. The table of layers (see
`compressc probe`) foretells the share of the time that is left; the cut graph is exported and
timed in ONNX Runtime beside the uncut one. Printed are both, the rank correlation (Spearman) and
the error. What is cut away is random, the weights do not matter.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

import numpy as np
from compressc_prune.latency import Latency

from compressc.analysis import Coupling, Width, couple
from compressc.ir import Graph
from compressc.pipeline import Context, Store
from compressc.session import open_session
from compressc.target import Target

#: The least share of a width that is left, and what sizes are multiples of.
LEAST, STEP = 8, 8


def widths_of(found: Coupling) -> list[Width]:
    """Those that `prune` cuts where nothing else is said."""
    return [
        width
        for width in found.widths()
        if width.producers
        and not (width.axis.frozen or width.axis.normalized or width.axis in found.stale)
        and width.axis.role in ("", "heads")
    ]


def drawn(widths: list[Width], draw: random.Random) -> dict[tuple[Width, ...], int]:
    """Random sizes, whole heads and multiples of a step."""
    sizes = {}
    for width in widths:
        size = draw.randint(max(1, width.size // LEAST), width.size)
        if not width.axis.role and width.size >= 2 * STEP:
            size = min(width.size, -(-size // STEP) * STEP)
        sizes[(width,)] = size
    return sizes


def ranks(values: np.ndarray) -> np.ndarray:
    """Of each value its place."""
    places = np.empty(len(values))
    places[np.argsort(values)] = np.arange(len(values))
    return places


def row(graph: Graph, ctx: Context, batch: int, cuts: int, seed: int) -> None:
    """All cuts at one batch size."""
    found = couple(graph)
    widths = widths_of(found)
    started = time.perf_counter()
    latency = Latency(graph, found, widths, ctx, batch)
    seconds = time.perf_counter() - started
    print(f"{latency.where}: {latency.measured_rows} rows measured in {seconds:.0f} s", flush=True)
    draw, predicted, measured = random.Random(seed), [], []
    for _ in range(cuts):
        sizes = drawn(widths, draw)
        predicted.append(latency.left(sizes))
        measured.append(latency.measured(sizes))
        print(f"  predicted {predicted[-1]:.3f}, measured {measured[-1]:.3f}", flush=True)
    ours, theirs = np.array(predicted), np.array(measured)
    errors = np.abs(ours / theirs - 1)
    correlation = np.corrcoef(ranks(ours), ranks(theirs))[0, 1]
    print(
        f"batch {batch}: rank correlation {correlation:.3f}, error {errors.mean():.1%} (mean), "
        f"{errors.max():.1%} at most",
        flush=True,
    )


def main() -> None:
    """See the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data")
    parser.add_argument("--input", action="append")
    parser.add_argument("--trust-pickle", action="store_true")
    parser.add_argument("--batches", default="1,64")
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    session = open_session(
        given.model, data=given.data, inputs=given.input or (), trust_pickle=given.trust_pickle
    )
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / ("0" * 64 + ".unfinished"))
        batches = [int(text) for text in given.batches.split(",")]
        for batch in batches:
            target = Target(backends=("onnx",), batches=(batch,))
            ctx = Context(session.loaded.graph, session.data, target=target, store=store)
            row(session.loaded.graph, ctx, batch, given.cuts, given.seed)


if __name__ == "__main__":
    main()
