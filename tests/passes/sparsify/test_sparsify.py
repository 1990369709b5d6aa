"""Zeros in weights: which ones, where none may be, and what is said of it."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from compressc_prune import Sparsify
from compressc_prune.zeroing import Pattern
from torch import nn

import compressc
from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.ir import Graph, verify
from compressc.pipeline import Context
from compressc.spec import make
from compressc.testing import export_graph
from tests.passes.prune.prune_nets import digit_data


def sparse(graph: Graph, data: object = None, **options: object) -> tuple[Graph, Context]:
    after, ctx = graph.copy(), Context(graph, data)
    make(Sparsify, options).run(after, ctx)
    verify(after, like=graph)
    return after, ctx


def conv_net() -> Graph:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=2), nn.ReLU(),
        nn.Flatten(1), nn.Linear(12 * 4 * 4, 10),
    )  # fmt: skip
    return export_graph(net.eval(), torch.randn(3, 1, 8, 8))


def weights(graph: Graph) -> dict[str, np.ndarray]:
    kinds = ("linear", "conv2d")
    return {op.name: op.layer.weight.detach().numpy() for op in graph if op.kind in kinds}


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_the_smallest_weights_of_each_layer_go(share):
    graph = conv_net()
    after, _ = sparse(graph, share=share)
    for name, old in weights(graph).items():
        new = weights(after)[name]
        gone = new == 0
        assert gone.sum() == int(share * old.size)
        assert np.abs(old[gone]).max() < np.abs(old[~gone]).min()
        np.testing.assert_array_equal(new[~gone], old[~gone])


def test_two_of_four_neighbouring_inputs_stay():
    graph = conv_net()
    after, ctx = sparse(graph, pattern="2:4")
    new = weights(after)
    old = weights(graph)["5"]
    assert ((new["5"].reshape(10, -1, 4) != 0).sum(-1) == 2).all()
    groups = np.abs(old.reshape(10, -1, 4))
    kept = np.where(new["5"].reshape(10, -1, 4) != 0, groups, np.inf).min(-1)
    gone = np.where(new["5"].reshape(10, -1, 4) == 0, groups, 0).max(-1)
    assert (kept > gone).all()
    # of a convolution the neighbours are channels, at each place of the kernel
    assert ((new["2"] != 0).sum(1) == 2).all()
    # one channel is no group of four
    np.testing.assert_array_equal(new["0"], weights(graph)["0"])
    assert ("0", "skipped: 1 inputs are no groups as in 2:4") in ctx.notes


def test_a_convolution_of_groups_counts_its_own_inputs():
    after, _ = sparse(conv_net(), pattern="1:2")
    assert weights(after)["2"].shape[1] == 4
    assert ((weights(after)["2"].reshape(12, 2, 2, 3, 3) != 0).sum(2) == 1).all()


def test_wanda_ranks_the_weights_of_an_output_by_weight_times_input():
    torch.manual_seed(0)
    net = nn.Linear(6, 4)
    scale = torch.tensor([10.0, 1.0, 1.0, 0.1, 1.0, 5.0])
    inputs = torch.randn(200, 6) * scale
    data = Dataset("scaled", *(Split((inputs,)) for _ in range(3)))
    graph = export_graph(net, torch.randn(3, 6))
    after, _ = sparse(graph, data, share=0.5, importance="wanda")
    name = next(iter(weights(graph)))
    old, new = weights(graph)[name], weights(after)[name]
    score = np.abs(old) * np.sqrt((inputs.double().numpy() ** 2).mean(0))
    wanted = np.zeros_like(old, dtype=bool)
    for row, order in zip(wanted, score.argsort(1), strict=True):
        row[order[:3]] = True
    np.testing.assert_array_equal(new == 0, wanted)
    assert (np.abs(old).argsort(1)[:, :3] != score.argsort(1)[:, :3]).any()


def test_what_is_kept_and_what_has_no_weights_to_zero_is_said():
    graph = conv_net()
    after, ctx = sparse(graph, keep="5,0*")
    np.testing.assert_array_equal(weights(after)["5"], weights(graph)["5"])
    np.testing.assert_array_equal(weights(after)["0"], weights(graph)["0"])
    assert ("5", "skipped: keep=5 protects it") in ctx.notes
    (text,) = [text for name, text in ctx.notes if name == graph.name]
    assert "size of files and time stay" in text
    share = int(re.search(r"take (\d+)%", text)[1])
    assert 40 < share < 80  # half of the weights, and where they are


def test_one_weight_of_two_layers_is_left_alone():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
            self.head.weight = self.table.weight
            self.middle = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.middle(self.table(x)))

    graph = export_graph(Tied(), torch.arange(6).reshape(2, 3))
    after, ctx = sparse(graph)
    assert (weights(after)["middle"] == 0).sum() == 32
    assert (weights(after)["head"] != 0).all()
    assert ("head", "skipped: another layer has the same weight") in ctx.notes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pattern": "4:2"}, "is no pattern such as 2:4"),
        ({"pattern": "half"}, "is no pattern such as 2:4"),
        ({"pattern": "2:4", "share": 0.5}, "share and pattern: give one of them"),
        ({"share": 1.0}, "share"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, said):
    with pytest.raises(CompresscError, match=re.escape(said)) as caught:
        make(Sparsify, options)
    assert caught.value.code == "CC102"


def test_a_pattern_of_names_that_matches_nothing_is_an_error():
    with pytest.raises(CompresscError, match="option 'keep' of pass 'sparsify'") as caught:
        sparse(conv_net(), keep="nothing*")
    assert caught.value.code == "CC102"


def test_patterns_are_read():
    assert Pattern.parse("2:4") == Pattern(2, 4)
    with pytest.raises(ValueError, match="is no pattern"):
        Pattern.parse("0:4")


def test_training_keeps_the_zeros_and_int8_has_them():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(1), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    passes = "sparsify(share=0.5),distill(epochs=1),quant"
    done = compressc.compile(net.eval(), passes, data=digit_data(), cache=None)
    (first,) = [op for op in done.graph if op.name == "1"]
    weight = first.layer.weight
    assert weight.dtype is torch.int8
    assert int((weight == 0).sum()) >= 1024
    said = "50% of 2 sparse weights stay zero; zeros=train moves them"
    assert said in [text for _, text in done.passes[1].notes]


def test_weights_of_16_bits_are_zeroed_and_packed():
    graph = conv_net()
    for op in graph:
        if op.layer is not None:
            op.layer.to(torch.bfloat16)
    after, ctx = graph.copy(), Context(graph)
    make(Sparsify, {"share": 0.5}).run(after, ctx)
    assert all(int((op.layer.weight == 0).sum()) * 2 == op.layer.weight.numel()
               for op in after if op.kind in ("linear", "conv2d"))  # fmt: skip
    assert any("in an archive" in text for _, text in ctx.notes)
