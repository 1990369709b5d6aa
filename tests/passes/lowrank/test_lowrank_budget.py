"""Ranks for a share of the whole graph: met at the least loss, or refused beforehand."""

from __future__ import annotations

import pytest
import torch
from compressc_lowrank import LowRank
from torch import nn

from compressc.analysis import total_cost
from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.ir import Graph, graph_hash
from compressc.pipeline import Context
from compressc.spec import make
from compressc.testing import check_coverage, check_pass, export_graph


def net() -> Graph:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    return export_graph(layers.eval(), torch.randn(4, 3, 12, 12))


def images() -> Dataset:
    torch.manual_seed(1)
    part = Split((torch.randn(40, 3, 12, 12),))
    return Dataset("images", part, part, part)


@pytest.mark.parametrize("data", [None, images()], ids=["bare", "data"])
@pytest.mark.parametrize(("of", "share"), [("params", 0.7), ("params", 0.3), ("macs", 0.5)])
def test_a_share_is_met(of, share, data):
    graph = net()
    checked = check_pass(LowRank(**{of: share}), graph, data)
    costs = [total_cost(g, b=1) for g in (graph, checked.graph)]
    before, after = (cost.parameters if of == "params" else cost.macs for cost in costs)
    assert 0.97 * share <= after / before <= share
    assert checked.notes["model"] == [f"{of}={share:g}: {after / before:.3f} is left"]


def test_more_is_lost_where_less_is_left():
    graph = net()
    kept = []
    for share in (0.8, 0.5, 0.2):
        context = Context(graph)
        LowRank(params=share).run(graph.copy(), context)
        kept.append(context.records["lowrank"]["left"])
    assert kept == sorted(kept, reverse=True)


@pytest.mark.parametrize("of", ["params", "macs"])
def test_what_cannot_be_met_is_refused(of):
    graph = net()
    twin = graph.copy()
    with pytest.raises(CompresscError, match=rf"CC102.*no less than 0\.\d+ of the {of}") as caught:
        LowRank(**{of: 0.001}).run(twin, Context(graph))
    assert caught.value.got == f"{of}=0.001"
    assert graph_hash(twin) == graph_hash(graph)
    assert not twin.edits


def test_what_no_chain_is_near():
    """One layer, whose chain has 0.8 of its weights at most: 0.95 is met by less."""
    torch.manual_seed(0)
    graph = export_graph(nn.Sequential(nn.Linear(32, 32, bias=False)).eval(), torch.randn(4, 32))
    checked = check_pass(LowRank(params=0.95), graph)
    assert total_cost(checked.graph).parameters == 12 * 64  # rank 12 of a break-even of 16
    assert "nothing is nearer" in checked.notes["model"][0]


@pytest.mark.parametrize("options", [{"params": 0.5}, {"macs": 0.5}], ids=str)
def test_coverage(options):
    check_coverage(LowRank(**options), net())


@pytest.mark.parametrize(
    "options",
    [{"rank": 3, "params": 0.5}, {"params": 0.5, "macs": 0.5}, {"energy": 0.9, "rank": 3}],
    ids=str,
)
def test_two_rules_are_refused(options):
    with pytest.raises(CompresscError, match=r"CC102.*each choose the ranks: give one of them"):
        make(LowRank, options)
