"""Costs that were worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compressc.analysis import Cost, cost_rows, op_costs, total_cost
from compressc.testing import export_graph
from tests.unit.analysis.analysis_nets import baked


@pytest.mark.parametrize(
    ("layer", "example", "parameters", "macs"),
    [
        # 6x6 outputs of 5 channels, each a sum of 3*3*3 products
        (nn.Conv2d(3, 5, 3), (3, 8, 8), 5 * 27 + 5, 36 * 5 * 27),
        (nn.Conv2d(6, 4, 3, stride=2, padding=1, groups=2), (6, 8, 8), 4 * 27 + 4, 16 * 4 * 27),
        (nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False), (6, 8, 8), 54, 64 * 6 * 9),
        (nn.Conv1d(2, 3, 4), (2, 10), 27, 7 * 3 * 8),
        # every one of 4*4 inputs of 6 channels meets 5 kernels of 2*2
        (nn.ConvTranspose2d(6, 5, 2, stride=2), (6, 4, 4), 6 * 5 * 4 + 5, 16 * 6 * 5 * 4),
        (nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2), (6, 4, 4), 52, 16 * 6 * 2 * 4),
        (nn.Linear(7, 3), (5, 7), 24, 5 * 3 * 7),
        (nn.LayerNorm(7), (5, 7), 14, 0),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_one_layer(layer, example, parameters, macs, batch):
    graph = export_graph(layer, torch.randn(4, *example))
    total = total_cost(graph, b=batch)
    assert (total.parameters, total.macs) == (parameters, batch * macs)
    assert total.bytes == 4 * parameters


def test_statistics_are_bytes_and_no_parameters():
    total = total_cost(export_graph(nn.BatchNorm2d(6), torch.randn(4, 6, 2, 2)))
    assert total.parameters == 12
    assert total.bytes == 4 * 24 + 8  # and the counter of batches


def test_attention():
    """Scores and context: 4 heads of 8, 17 tokens; q.k and scores.v are 17*17*8 each."""
    costs = op_costs(baked("vit"), b=2)
    (attention, _) = [c for n, c in costs.items() if "scaled_dot_product" in n]
    assert attention.macs == 2 * 4 * 2 * 17 * 17 * 8
    assert costs["blocks.0.attn.qkv"].macs == 2 * 17 * 32 * 96
    assert attention.activation_bytes == 2 * 4 * 17 * 8 * 4


def test_written_out_attention():
    costs = op_costs(baked("split_qkv"), b=1)
    matmuls = [c.macs for n, c in costs.items() if n.startswith("matmul")]
    assert matmuls == [4 * 6 * 6 * 6, 4 * 6 * 6 * 6]


def test_tied_weights_are_counted_once():
    graph = baked("tied_weights")
    costs = op_costs(graph)
    assert costs["embedding"].parameters == 23 * 16
    assert costs["head"].parameters == 0
    assert costs["head"].macs == 7 * 16 * 23
    assert total_cost(graph).parameters == 23 * 16 + 16 * 17


def test_the_total_is_the_modules_own_count():
    from tests.models import ZOO

    for name in ("digits_cnn", "vit", "dense_net", "u_net"):
        module, _ = ZOO[name]()
        want = sum(p.numel() for p in module.parameters())
        assert total_cost(baked(name)).parameters == want


def test_rows_are_what_costs_something():
    rows = [op.name for op, _ in cost_rows(baked("digits_cnn"))]
    assert rows == ["stem.0", "stem.1", "conv1", "bn1", "depthwise", "bn2", "pointwise", "head"]
    assert Cost(1, 2, 3, 4) + Cost(1, 1, 1, 1) == Cost(2, 3, 4, 5)
