"""`distill` trains what it says it trains, and leaves the rest as it was."""

from __future__ import annotations

import pytest
import torch
from compressc_distill import Distill
from torch import nn

from compressc.analysis.coverage import Verdict, parameters_of
from compressc.data import Dataset, Split
from compressc.ir import Graph
from compressc.pipeline import Context, cover
from compressc.testing import export_graph
from tests.passes.transformer_nets import random_data, transformer


class Branches(nn.Module):
    """A norm with statistics, a second output, and a choice by an integer.

    `gate` gets no gradient of either.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(6, 8), nn.BatchNorm1d(8)
        self.side, self.gate, self.head = nn.Linear(8, 2), nn.Linear(8, 4), nn.Linear(8, 3)
        self.table = nn.Embedding(4, 8)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.relu(self.norm(self.fc(x)))
        choice = self.table(self.gate(hidden).argmax(1))
        return self.head(hidden + choice), self.side(hidden)


def branches() -> Graph:
    torch.manual_seed(0)
    model = Branches()
    model.norm.momentum = None
    with torch.no_grad():  # a teacher's norms remember the data it was trained on
        model(rows().train.inputs[0])
    return export_graph(model.eval(), torch.randn(4, 6))


def trained(graph: Graph, data: Dataset, noise: float = 0.3, epochs: int = 3) -> Context:
    """A noisy copy is trained: what changed is what was said. The context has the notes."""
    torch.manual_seed(1)
    student = graph.copy()
    with torch.no_grad():
        for tensor in student.tensors().values():
            if isinstance(tensor, nn.Parameter):
                tensor.add_(torch.randn_like(tensor) * tensor.std(correction=0) * noise)
    before = {name: tensor.clone() for name, tensor in student.tensors().items()}
    context = Context(graph, data)
    verdicts = cover([Distill(epochs=epochs)], student, data)[0].verdicts
    Distill(epochs=epochs, batch_size=8).run(student, context)
    changed = {name for name, t in student.tensors().items() if not torch.equal(t, before[name])}
    assert changed, "no epoch was better than the start"
    claimed = {f"{op}.{name}" for op, verdict in verdicts.items() for name in verdict.tensors}
    learned = {f"{op.name}.{name}" for op in student for name, _ in parameters_of(op)}
    names = set(student.tensors())  # a tied tensor has the name of its first holder
    assert changed & learned == claimed & names
    return context


def rows(count: int = 64) -> Dataset:
    split = Split((torch.randn(count, 6, generator=torch.Generator().manual_seed(2)),))
    return Dataset("rows", split, split, split)


def test_agreement_and_notes():
    context = trained(branches(), rows())
    notes = {op: text for op, text in context.notes if text.startswith("skipped")}
    assert set(notes) == {"gate"}
    assert "no gradient" in notes["gate"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "gpt2", "vit_hf"])
def test_agreement_on_transformers(name):
    graph = transformer(name)
    with torch.no_grad():  # random logits near zero would teach less than dropout disturbs
        graph[graph.output_names[0]].layer.weight.mul_(50)
    trained(graph, random_data(graph, samples=64), noise=0.5, epochs=8)


def test_the_verdicts():
    (coverage,) = cover([Distill()], branches())
    assert coverage.verdicts["fc"] == Verdict.does("trains weight, bias", "weight", "bias")
    assert coverage.verdicts["side"] == Verdict.does("trains weight, bias", "weight", "bias")
    assert coverage.verdicts["gate"].outcome == "cannot"
    assert coverage.verdicts["table"].outcome == "does"
    relu = coverage.verdicts["relu"]
    assert relu == Verdict.idle("no weights; its value is matched with the teacher's %relu")
    assert cover([Distill(features=0)], branches())[0].verdicts["relu"].text == "no weights"
    # fc 56, norm 16, head 27, table 32, side 18; gate 36
    assert (coverage.covered, coverage.total) == (149, 185)


def test_a_model_without_class_scores():
    flat = export_graph(nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)), torch.randn(4, 3))
    (coverage,) = cover([Distill()], flat)
    assert coverage.share == 1.0


def test_complex_values_pass_a_gradient_on():
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.o = nn.Linear(6, 8), nn.Linear(8, 3)
            self.register_buffer("turn", torch.polar(torch.ones(4), torch.arange(4.0)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            z = torch.view_as_complex(self.q(x).view(-1, 4, 2)) * self.turn
            return self.o(torch.view_as_real(z).flatten(1))

    torch.manual_seed(0)
    graph = export_graph(Turned().eval(), torch.randn(4, 6))
    context = trained(graph, rows())  # what changed is what was said
    assert not [text for op, text in context.notes if op == "q"]
