"""What a recurrent layer reads becomes thin: of each layer, of both directions together."""

from __future__ import annotations

import pytest
import torch
from compressc_lowrank import LowRank
from compressc_quant import Quant
from torch import nn

from compressc.backend import load_backend
from compressc.data import Dataset, Split
from compressc.frontend import load_model
from compressc.ir import lower, verify
from compressc.pipeline import Context, Pipeline
from compressc.testing import check_coverage

CELLS = {
    "lstm": lambda: nn.LSTM(24, 20, batch_first=True),
    "lstm, both": lambda: nn.LSTM(24, 20, batch_first=True, bidirectional=True),
    "gru": lambda: nn.GRU(24, 20, batch_first=True),
    "rnn": lambda: nn.RNN(24, 20, batch_first=True, bias=False),
    "two": lambda: nn.LSTM(24, 20, num_layers=2, batch_first=True, bidirectional=True),
    "three": lambda: nn.GRU(24, 20, num_layers=3, batch_first=True),
}
#: Of every matrix that meets an input.
RANK = 4


class Tagger(nn.Module):
    """Numbers [n, length, 24] -> [n, length, 3], and the last state."""

    def __init__(self, name, rank=None):
        super().__init__()
        torch.manual_seed(0)
        self.cell = CELLS[name]()
        self.out = nn.Linear(20 * (1 + self.cell.bidirectional), 3)
        both = ("", "_reverse")[: 1 + self.cell.bidirectional]
        for layer in range(self.cell.num_layers if rank else 0):
            weights = [getattr(self.cell, f"weight_ih_l{layer}{end}") for end in both]
            matrix = torch.cat([weight.detach() for weight in weights])
            u, s, v = torch.linalg.svd(matrix, full_matrices=False)
            thin = (u[:, :rank] * s[:rank]) @ v[:rank]
            for weight, rows in zip(weights, thin.split(len(weights[0])), strict=True):
                weight.data.copy_(rows)

    def forward(self, x):
        y, last = self.cell(x)
        return self.out(y), last[0] if isinstance(last, tuple) else last


def graph_of(net):
    return load_model(
        net.eval(), example=(torch.randn(2, 5, 24),), input_spec=["x: f32[b,s,24]"]
    ).graph


def data():
    x = torch.randn(64, 7, 24, generator=torch.Generator().manual_seed(1))
    part = Split((x,))
    return Dataset("noise", part, part, part)


@pytest.mark.parametrize("name", CELLS)
def test_matrices_of_low_rank_come_apart_without_loss(name):
    """The factors at the true rank give what the net gave, at any length and batch."""
    net = Tagger(name, RANK)
    graph = graph_of(net)
    context = Context(graph)
    thin = graph.copy()
    LowRank(rank=RANK).run(thin, context)
    verify(thin)
    x = torch.randn(3, 11, 24)
    for ours, wanted in zip(lower(thin)(x), net(x), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)
    layers, cell = [op for op in thin if op.role == "recurrent"], net.cell
    assert len(layers) == cell.num_layers
    rows = cell.weight_ih_l0.shape[0] * (1 + cell.bidirectional)
    for op in layers:
        assert op.layer.input_size == RANK
        front = thin[op.inputs[0]]
        assert (front.kind, front.layer.out_features, front.layer.bias) == ("linear", RANK, None)
        full = min(front.layer.in_features, rows)
        assert (op.name, f"rank {RANK} of {full} keeps 100.0% of the energy") in context.notes
    count = 0
    for layer in range(cell.num_layers):
        width = 24 if layer == 0 else 20 * (1 + cell.bidirectional)
        count += RANK * (rows + width)
    whole = sum(p.numel() for n, p in net.named_parameters() if "weight_ih" not in n)
    assert sum(tensor.numel() for tensor in thin.tensors().values()) == whole + count


def test_the_state_is_left_and_so_is_what_would_not_pay():
    graph = graph_of(Tagger("lstm"))
    context = Context(graph)
    thin = graph.copy()
    LowRank(rank=20).run(thin, context)
    assert str(thin) == str(graph)
    assert ("cell", "skipped: rank 20 is not below 0.8 of break-even 18.5") in context.notes


def test_only_the_first_layer_pays():
    """It stays one op: its own input is thin, and a note says why the layer above is not."""
    net = Tagger("two")
    u, s, v = torch.linalg.svd(net.cell.weight_ih_l0.detach(), full_matrices=False)
    for end in ("", "_reverse"):
        getattr(net.cell, f"weight_ih_l0{end}").data.copy_((u[:, :2] * s[:2]) @ v[:2])
    graph = graph_of(net)
    context = Context(graph)
    thin = graph.copy()
    LowRank(energy=0.99).run(thin, context)
    (op,) = [op for op in thin if op.role == "recurrent"]
    assert (op.layer.num_layers, op.layer.input_size, op.inputs) == (2, 2, ("cell.v",))
    assert any(
        name == "cell" and text.startswith("skipped: its layer 1: rank")
        for name, text in context.notes
    )
    x = torch.randn(3, 6, 24)
    torch.testing.assert_close(lower(thin)(x)[0], net(x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["lstm, both", "two", "gru"])
def test_factors_by_results_lose_less(name):
    """Inputs of few directions: those that matter are kept, and the bias takes up the mean."""
    net = Tagger(name)
    graph = graph_of(net)
    mix = torch.randn(6, 24, generator=torch.Generator().manual_seed(3))
    x = torch.randn(256, 9, 6, generator=torch.Generator().manual_seed(2)) @ mix + 2
    part = Split((x,))
    context = Context(graph, data=Dataset("few", part, part, part))
    lost = []
    for aware in (True, False):
        thin = graph.copy()
        LowRank(rank=6, aware=aware).run(thin, context)
        lost.append(float((lower(thin)(x)[0] - net(x)[0]).detach().square().mean()))
    assert lost[0] < lost[1] / 5


@pytest.mark.parametrize("options", [{"rank": 4}, {"rank": 20}, {"energy": 0.6}], ids=str)
@pytest.mark.parametrize("name", CELLS)
def test_what_is_foretold_happens(name, options):
    check_coverage(LowRank(**options), graph_of(Tagger(name)))


@pytest.mark.parametrize("name", ["lstm, both", "two", "three"])
def test_files_and_integers_behind_it(name, tmp_path):
    """ONNX Runtime and OpenVINO have their own recurrent kernels for it still; so has int8."""
    net = Tagger(name, RANK)
    passes = [LowRank(rank=RANK), Quant(mode="dynamic")]
    results = Pipeline(passes, data()).run(graph_of(net))
    thin, rounded = (result.graph for result in results[-2:])
    x = torch.randn(3, 8, 24)
    for graph, bound in ((thin, 1e-4), (rounded, 0.05)):
        for format_ in ("onnx", "openvino"):
            backend = load_backend(format_)
            run = backend.load(backend.emit(graph, tmp_path / f"{format_}{bound}", (x,)), 1)
            for ours, wanted in zip(run(x), lower(graph)(x), strict=True):
                torch.testing.assert_close(torch.as_tensor(ours), wanted, rtol=0, atol=bound)
    assert not [op for op in rounded if op.kind in ("lstm", "gru")]


def test_choices_of_each_layer():
    graph = graph_of(Tagger("two"))
    context = Context(graph, data=data())
    pass_ = LowRank()
    offers = pass_.choices(graph, context)
    assert {offer.part for offer in offers} == {"cell.l0", "cell", "out"}
    upper = [offer for offer in offers if offer.part == "cell"]
    thin = graph.copy()
    pass_.take(thin, context, upper[:1])
    verify(thin)
    assert "cell.v" in thin
    assert "cell.l0.v" not in thin
    thin = graph.copy()  # of the other layer alone: the op stays one
    pass_.take(thin, context, [offer for offer in offers if offer.part == "cell.l0"][:1])
    assert thin["cell"].layer.num_layers == 2
    assert thin["cell"].inputs == ("cell.v",)
    thin = graph.copy()
    pass_.take(thin, context, [])
    assert str(thin) == str(graph)


def test_a_budget_counts_the_other_weights_of_the_layer():
    graph = graph_of(Tagger("two"))
    context = Context(graph, data=data())
    thin = graph.copy()
    LowRank(params=0.8).run(thin, context)
    count = [sum(tensor.numel() for tensor in g.tensors().values()) for g in (thin, graph)]
    assert 0.77 < count[0] / count[1] <= 0.8
    assert context.records["lowrank"]["left"] == pytest.approx(count[0] / count[1], abs=1e-9)
