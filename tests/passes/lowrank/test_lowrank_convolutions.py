"""The pass on convolutions and tables: which scheme, where, and where not."""

from __future__ import annotations

import pytest
import torch
from compressc_lowrank import LowRank
from torch import nn

from compressc.analysis import total_cost
from compressc.ir import Graph, run_graph
from compressc.pipeline import cover
from compressc.testing import check_coverage, check_pass, export_graph


def smooth(layer: nn.Conv2d) -> nn.Conv2d:
    """A weight of rank 2 in each way to take it apart, and some noise."""
    generator = torch.Generator().manual_seed(0)
    out, in_, y, x = layer.weight.shape
    parts = [torch.randn(2, n, generator=generator) for n in (out, in_, y, x)]
    weight = torch.einsum("ro,ri,ry,rx->oiyx", *parts)
    layer.weight.data = weight + 0.01 * torch.randn(weight.shape, generator=generator)
    return layer


def net() -> Graph:
    torch.manual_seed(0)
    layers = nn.Sequential(
        smooth(nn.Conv2d(16, 24, 3, padding=1)), nn.ReLU(), smooth(nn.Conv2d(24, 16, 3, stride=2))
    )
    return export_graph(layers.eval(), torch.randn(4, 16, 9, 9))


@pytest.mark.parametrize("scheme", ["auto", "channel", "spatial", "tucker"])
def test_a_convolution_of_low_rank_stays_nearly_what_it_is(scheme):
    graph = net()
    checked = check_pass(LowRank(scheme=scheme, energy=0.99), graph)
    assert total_cost(checked.graph).parameters < 0.5 * total_cost(graph).parameters
    assert total_cost(checked.graph, b=1).macs < 0.5 * total_cost(graph, b=1).macs
    x = torch.randn(3, 16, 9, 9)
    (want,), (got,) = (run_graph(g, (x,)) for g in (graph, checked.graph))
    assert float((got - want).square().mean() / want.var()) < 0.03


def test_auto_takes_the_fewest_weights():
    counts = {
        scheme: total_cost(check_pass(LowRank(scheme=scheme), net()).graph).parameters
        for scheme in ("channel", "spatial", "tucker")
    }
    auto = check_pass(LowRank(), net())
    assert total_cost(auto.graph).parameters == min(counts.values())


def test_svd_leaves_them_alone():
    checked = check_pass(LowRank(scheme="svd"), net())
    assert not checked.edits
    assert checked.notes["0"] == [
        "skipped: left to channel or spatial or tucker, which is not asked for"
    ]


@pytest.mark.parametrize("options", [{"scheme": "tucker", "rank": 0.4}, {"rank": 4}], ids=str)
def test_coverage(options):
    covered = check_coverage(LowRank(**options), net())
    assert covered.covered == sum(g.layer.weight.numel() for g in net() if g.kind == "conv2d")


def test_a_stride_that_makes_a_chain_dear_is_refused():
    """The first 1x1 convolution of Tucker runs at every place, the dense one at a quarter."""
    torch.manual_seed(0)
    layer = nn.Conv2d(32, 8, 2, stride=2, bias=False)
    graph = export_graph(nn.Sequential(layer).eval(), torch.randn(4, 32, 8, 8))
    checked = check_pass(LowRank(scheme="tucker", rank=6), graph)
    assert checked.notes["0"] == ["skipped: rank 6 leaves 94% of its multiply-accumulates"]


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(60, 24, padding_idx=0), nn.Linear(24, 3)

    def forward(self, ids):
        return self.out(self.table(ids))


def test_a_table():
    torch.manual_seed(0)
    graph = export_graph(Tagger().eval(), torch.randint(0, 60, (4, 5)))
    checked = check_pass(LowRank(rank=6), graph)
    assert [" ".join(line.split()) for line in str(checked.graph).splitlines()[1:3]] == [
        "%table.rows = embedding(%ids) {rows=60, width=6, padding_idx=0} @table.rows.weight : "
        "f32[b,5,6] # from table",
        "%table = linear(%table.rows) {in=6, out=24, bias=false} @table.weight : "
        "f32[b,5,24] # from table",
    ]
    assert float(checked.graph["table.rows"].layer.weight[0].abs().max()) < 1e-6
    left = check_pass(LowRank(rank=6, embeddings=False), graph)
    assert left.notes["table"] == ["skipped: left to embedding, which is not asked for"]
    (coverage,) = cover([LowRank(rank=6)], graph)
    assert coverage.verdicts["table"].text == "factorizes to rank 6 of 24"


def test_a_table_is_never_in_the_way_of_a_budget_of_products():
    """Its chain multiplies, and it does not."""
    torch.manual_seed(0)
    graph = export_graph(Tagger().eval(), torch.randint(0, 60, (4, 5)))
    checked = check_pass(LowRank(macs=0.9, limit=1.0), graph)
    assert "table.rows" not in checked.graph
    assert "out.v" in checked.graph
