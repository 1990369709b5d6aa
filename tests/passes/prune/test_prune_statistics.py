"""After a cut, batch norms remember what the cut net shows them."""

from __future__ import annotations

import pytest
import torch
from compressc_lowrank import LowRank
from torch import nn

from compressc.data import Dataset, Split
from compressc.ir import lower
from compressc.pipeline import Context
from compressc.testing import export_graph
from tests.passes.prune.prune_nets import pruned


def net() -> nn.Sequential:
    """Two norms that remember the images they were made with."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        *(nn.Conv2d(2, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 1)),
        *(nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16, 3)),
    )
    for layer in (layers[1], layers[4]):
        layer.momentum = None
    layers(images())
    return layers.eval()


def images() -> torch.Tensor:
    return torch.randn(64, 2, 6, 6, generator=torch.Generator().manual_seed(1))


def data() -> Dataset:
    part = Split((images(),))
    return Dataset("images", part, part, part)


def off(graph) -> float:
    """How far the second norm's mean is from what it is shown, in standard deviations."""
    convolution, norm = (next(op for op in graph if op.name == name) for name in ("3", "4"))
    with torch.no_grad():
        _, (seen,) = lower(graph, also=[convolution.name])(images())
    mean, deviation = seen.mean((0, 2, 3)), seen.std((0, 2, 3))
    return float(((norm.layer.running_mean - mean).abs() / deviation).max())


@pytest.mark.parametrize("statistics", [True, False])
def test_prune_takes_new_statistics_where_it_may(statistics):
    graph = export_graph(net(), images()[:4])
    assert off(graph) < 1e-3
    after, ctx = pruned(graph, data=data(), statistics=statistics, refit=False)
    assert (off(after) < 1e-3) == statistics
    assert statistics or off(after) > 0.1
    assert any("taken anew from 64 samples" in text for _, text in ctx.notes) == statistics


def test_without_data_prune_says_what_is_missing():
    after, ctx = pruned(export_graph(net(), images()[:4]))
    assert off(after) > 0.1
    assert any("give data for new statistics" in text for _, text in ctx.notes)


def test_lowrank_takes_new_statistics_behind_what_it_factorized():
    graph = export_graph(net(), images()[:4])
    first = graph["1"].layer.running_mean.clone()
    ctx = Context(graph.copy(), data())
    LowRank(rank=4, scheme="svd", aware=False).run(graph, ctx)
    assert "3.v" in graph
    assert off(graph) < 1e-3
    assert torch.equal(graph["1"].layer.running_mean, first)
    assert ("4", "statistics taken anew from 64 samples") in ctx.notes
