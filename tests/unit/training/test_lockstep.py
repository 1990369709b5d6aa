"""A graph run op by op computes what it computes at once, and sees what is written in between."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compressc.ir import lower
from compressc.testing import export_graph
from compressc.training.lockstep import Lockstep


@pytest.fixture
def graph():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3), nn.Tanh())
    return export_graph(net.eval(), torch.ones(5, 2))


@torch.no_grad()
def test_values_of_each_batch(graph):
    batches = [(torch.randn(n, 2),) for n in (2, 3)]
    run = Lockstep(graph, batches)
    run.before("2")
    assert run.has("1")
    assert not run.has("0"), "nothing behind reads it"
    assert not run.has("2")
    run.through("3")
    for number, inputs in enumerate(batches):
        assert torch.equal(run.value("3", number), lower(graph)(*inputs))


@torch.no_grad()
def test_a_layer_that_is_changed_in_between_counts(graph):
    run = Lockstep(graph, [(torch.randn(2, 2),)])
    run.before("2")
    graph["2"].layer.weight = nn.Parameter(torch.zeros(3, 4))
    run.through("2")
    assert torch.equal(run.value("2", 0), graph["2"].layer.bias.expand(2, 3))
