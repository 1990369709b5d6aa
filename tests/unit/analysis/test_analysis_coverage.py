"""Coverage: counting, the honest default, and a check that catches a pass that does not keep it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from compressc.analysis.coverage import Uncovered, Verdict, summarize
from compressc.errors import CompresscError
from compressc.ir import Graph
from compressc.pipeline import Context, Pass, cover
from compressc.spec import make
from compressc.testing import check_coverage, export_graph


class Net(nn.Module):
    """Two linear layers with one weight, a third, a relu."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.relu(self.b(self.a(x))))


@pytest.fixture
def graph() -> Graph:
    torch.manual_seed(0)
    return export_graph(Net(), torch.randn(4, 4))


class Silent(Pass):
    """Says nothing."""

    name: ClassVar[str] = "silent"

    def run(self, graph: Graph, ctx: Context) -> None: ...


class Says(Silent):
    """Answers with whatever it is given, and doubles the weights it is told to."""

    name: ClassVar[str] = "says"
    answer: Any = None
    """The answer; an exception is raised."""
    doubles: tuple[str, ...] = ()
    """Ops whose weight is doubled."""

    def run(self, graph: Graph, ctx: Context) -> None:
        ctx.note("a, b", "skipped: tied")
        for name in self.doubles:
            layer: Any = graph[name].layer
            layer.weight = nn.Parameter(layer.weight.detach() * 2)
            graph.set_layer(name, layer)

    def coverage(self, graph: Graph, ctx: Context) -> Mapping[str, Verdict]:
        if isinstance(self.answer, Exception):
            raise self.answer
        answer: Mapping[str, Verdict] = self.answer
        return answer


def test_parameters_are_counted_once_and_whole(graph):
    """16 of a (tied to b), 4 + 4 biases, 12 + 3 of c: 39. Covered: c.weight and the bias of a."""
    verdicts = {
        "a": Verdict.does("halves", "weight", "bias"),
        "b": Verdict.cannot("tied"),
        "c": Verdict.does("halves", "weight"),
        "nobody": Verdict.does("is not there", "weight"),
    }
    coverage = summarize(graph, "p", verdicts)
    assert (coverage.total, coverage.covered) == (39, 16)
    assert coverage.share == pytest.approx(16 / 39)
    assert coverage.uncovered == (
        Uncovered("a.weight", 16, "tied"),
        Uncovered("b.bias", 4, "tied"),
        Uncovered("c.bias", 3, "halves; bias stays"),
    )
    assert list(coverage.verdicts) == [op.name for op in graph]
    assert coverage.counts() == {"does": 2, "cannot": 1, "unknown": 2, "idle": 0}


def test_a_graph_without_parameters_is_covered():
    graph = export_graph(nn.ReLU(), torch.randn(4, 4))
    assert summarize(graph, "p", {}).share == 1.0


def test_a_pass_without_coverage_does_not_say(graph):
    (coverage,) = cover([Silent()], graph)
    assert set(coverage.verdicts.values()) == {Verdict.unknown("does not say")}
    assert coverage.share == 0.0


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (ZeroDivisionError("a\nb"), "does not say: its coverage failed (ZeroDivisionError: a)"),
        (CompresscError("CC105", "data"), "does not say: [CC105] data"),
        (["a"], "does not say: its coverage is no mapping of op names to verdicts"),
        ({"a": "does"}, "does not say: its coverage is no mapping of op names to verdicts"),
        (None, "does not say: its coverage is no mapping of op names to verdicts"),
    ],
)
def test_a_broken_answer_is_none(graph, answer, text):
    (coverage,) = cover([Says(answer=answer)], graph)
    assert {verdict.text for verdict in coverage.verdicts.values()} == {text}
    assert coverage.share == 0.0


def test_the_graph_is_not_touched(graph):
    before = str(graph)
    cover([make(Says, {"answer": {}})], graph)
    assert str(graph) == before


DOUBLED = Verdict.does("doubled", "weight")


def test_agreement(graph):
    verdicts = {"c": DOUBLED, "a": Verdict.cannot("tied")}
    assert check_coverage(Says(answer=verdicts, doubles=("c",)), graph).covered == 12


@pytest.mark.parametrize(
    ("verdicts", "doubles", "fault"),
    [
        ({"c": DOUBLED}, (), "%c: its weight is as it was"),
        ({"c": Verdict.cannot("no")}, ("c",), "%c: its weight has changed, but coverage says 'no'"),
        ({"c": Verdict.idle("no")}, ("c",), "%c: its weight has changed"),
        ({"c": Verdict.cannot("no")}, (), "%c: left alone without a note"),
        ({"relu": Verdict.does("cut")}, (), "%relu: nothing of it has changed"),
    ],
)
def test_a_false_claim_is_caught(graph, verdicts, doubles, fault):
    with pytest.raises(AssertionError, match="but coverage says") as caught:
        check_coverage(Says(answer=verdicts, doubles=doubles), graph)
    assert fault in str(caught.value)


class Renames(Silent):
    """Erases the relu, which it says to leave."""

    name: ClassVar[str] = "renames"

    def run(self, graph: Graph, ctx: Context) -> None:
        graph.redirect("relu", "b")
        graph.erase("relu")

    def coverage(self, graph: Graph, ctx: Context) -> Mapping[str, Verdict]:
        return {"relu": Verdict.idle("no weights")}


def test_an_op_that_is_gone_was_not_left_alone(graph):
    with pytest.raises(AssertionError, match="%relu: it is another"):
        check_coverage(Renames(), graph)


def test_a_prelude_is_run_before_the_pass_is_asked():
    """quant folds the batch norm first: what simplify takes away is covered."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()).eval()

    class Asked(Says):
        """Has a prelude."""

        name: ClassVar[str] = "asked"
        prelude: ClassVar[tuple[str, ...]] = ("simplify",)

        def coverage(self, graph: Graph, ctx: Context) -> Mapping[str, Verdict]:
            return {op.name: Verdict.idle("seen") for op in graph}

    (coverage,) = cover([Asked()], export_graph(net, torch.randn(4, 1, 8, 8)))
    assert coverage.verdicts["1"].text == "removed by simplify, which runs first"
    assert coverage.verdicts["0"] == Verdict.idle("seen")
    assert (coverage.covered, coverage.total) == (16, 72 + 16)
