"""`measure=true`: what is not faster in the target's runtime stays dense, and says so."""

from __future__ import annotations

import pytest
import torch
from compressc_lowrank import LowRank, timing
from torch import nn

from compressc.errors import CompresscError
from compressc.frontend import load_model
from compressc.ir import Graph, graph_hash, run_graph
from compressc.measure import Spread
from compressc.pipeline import Context, cover
from compressc.target import Target
from compressc.testing import export_graph

TARGET = Target(backends=("onnx",), batches=(1, 16))


class Stub:
    """Runs a graph as it is."""

    runtime = "a stub"

    def emit(self, graph, folder, example):
        self.graph = graph
        return graph

    def load(self, graph, threads):
        return lambda *inputs: run_graph(graph, inputs)


def net() -> Graph:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Linear(32, 32), nn.Linear(32, 32), nn.Unflatten(1, (2, 4, 4)), nn.Conv2d(2, 16, 3)
    )
    return export_graph(layers.eval(), torch.randn(4, 32))


class Rows(nn.Module):
    """The sequence of a recurrent layer, f32[b,6,16]."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(24, 16, batch_first=True)

    def forward(self, x):
        return self.cell(x)[0]


@pytest.fixture
def ratios(monkeypatch):
    """Tells what is measured: batch size -> how many times faster each chain is."""
    told: dict[int, float] = {}
    calls: list[int] = []

    def measured(runs, **options):
        batch = len(runs["dense"].args[0])
        (dense,), (chain,) = (run() for run in runs.values())
        assert dense.shape == chain.shape
        calls.append(batch)
        return {
            "dense": Spread.of([told[batch]] * 9),
            "chain": Spread.of([1.0] * 9),
        }

    monkeypatch.setattr(timing, "load_backend", lambda name: Stub())
    monkeypatch.setattr(timing, "measure_latency", measured)
    return told, calls


@pytest.mark.parametrize(
    ("faster", "stays"),
    [
        ({1: 1.5, 16: 2.0}, False),
        ({1: 1.0, 16: 2.0}, False),
        ({1: 1.0, 16: 1.0}, True),
        ({1: 0.5, 16: 2.0}, True),
    ],
    ids=str,
)
def test_a_chain_that_is_not_faster_is_not_made(ratios, faster, stays):
    told, calls = ratios
    told.update(faster)
    graph = net()
    before = graph_hash(graph)
    context = Context(graph, target=TARGET)
    LowRank(rank=2, measure=True).run(graph, context)
    assert calls == [1, 16] * 2  # two layers of one shape are measured once
    assert (graph_hash(graph) == before) == stays
    notes = dict(context.notes)
    if stays:
        assert notes["0"] == (
            f"skipped: thin layers are not faster in a stub: "
            f"{faster[1]:.2f}x ({faster[1]:.2f}-{faster[1]:.2f}) at 1, "
            f"{faster[16]:.2f}x ({faster[16]:.2f}-{faster[16]:.2f}) at 16"
        )
    rows = context.records["layer speed-ups"]
    assert [(row["layer"], row["batch"]) for row in rows] == [
        ("0", 1),
        ("0", 16),
        ("3", 1),
        ("3", 16),
    ]


def test_what_cannot_be_measured_stays(ratios, monkeypatch):
    def refuse(*args):
        raise CompresscError("CC503", "torch.export failed", got="a reason")

    monkeypatch.setattr(Stub, "emit", refuse)
    graph = net()
    context = Context(graph, target=TARGET)
    LowRank(rank=2, measure=True).run(graph, context)
    assert not graph.edits
    assert "a stub cannot time it: [CC503] torch.export failed" in dict(context.notes)["0"]


def test_nothing_is_measured_unless_asked(monkeypatch):
    monkeypatch.setattr(timing, "load_backend", lambda name: pytest.fail("measured"))
    LowRank(rank=2).run(net(), Context(net(), target=TARGET))


def test_what_was_measured_for_a_target_is_not_used_for_another():
    assert LowRank(rank=2).target_parts == frozenset()
    assert LowRank(rank=2, measure=True).target_parts == {"backends", "batches", "threads"}


def test_coverage_does_not_foretell_a_measurement():
    (coverage,) = cover([LowRank(rank=2, measure=True)], net())
    assert coverage.verdicts["0"].outcome == "unknown"
    assert coverage.verdicts["0"].text == "factorizes to rank 2 of 32 where that measures faster"


@pytest.mark.slow
def test_by_the_clock_in_onnx_runtime():
    """A sixtieth of the products of a large layer is faster."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(1024, 1024), nn.Linear(1024, 16))
    graph = export_graph(layers.eval(), torch.randn(4, 1024))
    context = Context(graph, target=Target(backends=("onnx",), batches=(64,)))
    LowRank(rank=8, measure=True).run(graph, context)
    (row, *_) = context.records["layer speed-ups"]
    assert row["ratio"] > 2
    assert ("0.v" in graph) == (row["verdict"] == "faster")  # `busy` on a machine without time


def test_recurrent_layers_are_timed_by_themselves(ratios):
    told, calls = ratios
    told |= {1: 2.0, 16: 1.2}
    graph = load_model(Rows().eval(), example=(torch.randn(4, 6, 24),)).graph
    context = Context(graph, target=TARGET)
    LowRank(rank=2, measure=True).run(graph, context)
    assert graph["cell"].layer.input_size == 2
    assert calls == [1, 16]
    assert context.records["layer speed-ups"][0]["layer"] == "cell"
