"""Factors chosen by what layers put out: nearer at the same rank, and never in the way of a run."""

from __future__ import annotations

import pytest
import torch
from compressc_lowrank import LowRank
from compressc_lowrank.seen import Seen
from torch import nn

from compressc.data import Dataset, Split
from compressc.ir import Graph, run_graph
from compressc.testing import check_pass, export_graph


def correlated(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    """Samples of which a few directions make most, off the origin."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(99))).Q
    return torch.randn(rows, width, generator=generator) * 0.8 ** torch.arange(width) @ mix + 1


def dataset(*inputs: torch.Tensor) -> Dataset:
    part = Split(inputs)
    return Dataset("samples", part, part, part)


def error(graph: Graph, other: Graph, *inputs: torch.Tensor) -> float:
    (want,), (got,) = (run_graph(g, inputs) for g in (graph, other))
    return float((got - want).square().mean() / want.var(0).mean())


def both(net: nn.Module, data: Dataset, *test: torch.Tensor, **options: object) -> list[float]:
    """Errors with and without the data."""
    graph = export_graph(net.eval(), *(x[:4] for x in data.train.take(4).inputs))
    made = [check_pass(LowRank(aware=aware, **options), graph, data) for aware in (True, False)]
    assert made[0].edits == made[1].edits  # the ranks are the same
    return [error(graph, checked.graph, *test) for checked in made]


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer(bias):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 24, bias=bias))
    aware, plain = both(net, dataset(correlated(500, 32)), correlated(200, 32, 1), rank=5)
    assert aware < 0.3 * plain


@pytest.mark.parametrize("scheme", ["channel", "spatial", "tucker"])
def test_a_convolution(scheme):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2))
    x, test = (correlated(60, 8 * 49, seed).reshape(60, 8, 7, 7) for seed in (0, 1))
    aware, plain = both(net, dataset(x), test, scheme=scheme, rank=5)
    assert aware < 0.8 * plain


def test_a_table_whose_rows_are_not_used_alike():
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(40, 16)

        def forward(self, ids):
            return self.table(ids).mean(1)

    ids = torch.randint(0, 8, (64, 6))  # of 40 rows
    aware, plain = both(Net(), dataset(ids), ids, rank=8)
    assert aware < 0.2 * plain


def test_the_bias_takes_up_the_mean():
    torch.manual_seed(0)
    x = correlated(300, 32)
    graph = export_graph(nn.Sequential(nn.Linear(32, 24)).eval(), x[:4])
    checked = check_pass(LowRank(rank=3), graph, dataset(x))
    (want,), (got,) = (run_graph(g, (x,)) for g in (graph, checked.graph))
    torch.testing.assert_close(got.mean(0), want.mean(0), atol=1e-4, rtol=1e-4)


def test_a_bias_of_two_layers_stays():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(32, 24), nn.Linear(32, 24)
            self.b.bias = self.a.bias

        def forward(self, x):
            return self.a(x) + self.b(x)

    torch.manual_seed(0)
    x = correlated(100, 32)
    graph = export_graph(Shared().eval(), x[:4])
    checked = check_pass(LowRank(rank=3), graph, dataset(x))
    assert checked.graph["a"].layer.bias is checked.graph["b"].layer.bias
    assert torch.equal(checked.graph["a"].layer.bias, graph["a"].layer.bias)


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(20, 32),
        torch.ones(20, 32),
        torch.eye(32)[:1].expand(20, 32).contiguous(),
        torch.randn(1, 32),
        torch.randn(3, 32) * torch.tensor([1.0] * 8 + [0.0] * 24),
        torch.randn(20, 32) * 1e-20,
        torch.randn(20, 32) * 1e18,
    ],
    ids=["zeros", "constant", "one place", "one sample", "dead", "tiny", "huge"],
)
@pytest.mark.parametrize("bias", [True, False])
def test_degenerate_inputs_do_not_fail(x, bias):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 24, bias=bias), nn.Linear(24, 24))
    graph = export_graph(net.eval(), torch.randn(4, 32))
    checked = check_pass(LowRank(rank=5), graph, dataset(x))
    layers = [op.layer for op in checked.graph if op.layer is not None]
    assert len(layers) == 4
    assert all(bool(p.isfinite().all()) for layer in layers for p in layer.parameters())


def test_padding_of_a_text_does_not_count():
    """The same factors, whatever stands where the mask is 0."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.fc = nn.Embedding(20, 16), nn.Linear(16, 16)

        def forward(self, ids, attention_mask):
            kept = attention_mask.unsqueeze(-1).float()
            return (self.fc(self.table(ids)) * kept).sum(1)

    torch.manual_seed(0)
    mask = (torch.arange(6) < torch.randint(2, 6, (50, 1))).long()
    ids = torch.randint(0, 10, (50, 6))
    other = torch.where(mask == 1, ids, 15)
    graph = export_graph(Net().eval(), ids[:4], mask[:4])
    factors = []
    for rows in (ids, other):
        checked = check_pass(LowRank(rank=4, embeddings=False), graph, dataset(rows, mask))
        factors.append(checked.graph["fc.v"].layer.weight)
    assert torch.equal(*factors)


def test_layers_that_do_not_fit_together_are_seen_one_after_another(monkeypatch):
    """The same bytes, whether moments are collected at once or in several runs."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.Linear(32, 8))
    x = correlated(100, 32)
    graph = export_graph(net.eval(), x[:4])
    texts = []
    for together in (1, 1 << 27):
        monkeypatch.setattr("compressc_lowrank.collecting.TOGETHER", together)
        checked = check_pass(LowRank(rank=3), graph, dataset(x))
        texts.append(checked.graph["2.v"].layer.weight)
    assert torch.equal(*texts)


def test_a_moment_that_is_rounding_alone_has_a_root():
    """Its least eigenvalue lies further below zero than the ridge reaches."""
    turned = torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64, generator=seeded())).Q
    values = torch.full((20,), -4e-18, dtype=torch.float64)
    values[0] = 4.8e-15
    moment = turned @ torch.diag(values) @ turned.T
    root = Seen(moment).root()
    assert torch.isfinite(root).all()
    assert torch.equal(root, root.tril())
    assert torch.allclose(root @ root.T, moment, rtol=0, atol=1e-17)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)
