"""A recurrent op of several layers becomes one op for each, and computes what it did."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compressc.editing import split_layers
from compressc.frontend import load_model
from compressc.ir import lower, verify


class Tagger(nn.Module):
    """Of all that a recurrent layer gives, and of states that are given to it."""

    def __init__(self, cell, sizes, given=False, **options):
        super().__init__()
        torch.manual_seed(0)
        self.cell = cell(*sizes, **options)
        states = self.cell.num_layers * (1 + self.cell.bidirectional)
        self.first = nn.Parameter(torch.randn(states, 1, self.cell.hidden_size)) if given else None

    def forward(self, x):
        dim = 0 if self.cell.batch_first else 1
        given = None
        if self.first is not None:
            given = self.first.expand(-1, x.shape[dim], -1).contiguous()
            given = (given, 2 * given) if isinstance(self.cell, nn.LSTM) else given
        out, last = self.cell(x, given)
        return (out, *last) if isinstance(last, tuple) else (out, last)


NETS = {
    "lstm": lambda: Tagger(nn.LSTM, (5, 4), num_layers=3, batch_first=True, dropout=0.25),
    "both ways": lambda: Tagger(nn.LSTM, (5, 4), num_layers=2, bidirectional=True, bias=False),
    "given": lambda: Tagger(nn.LSTM, (5, 4), True, num_layers=2, bidirectional=True),
    "gru": lambda: Tagger(nn.GRU, (5, 4), True, num_layers=3, batch_first=True),
    "rnn": lambda: Tagger(nn.RNN, (5, 4), num_layers=2, nonlinearity="relu", batch_first=True),
}


@pytest.mark.parametrize("name", NETS)
def test_the_same_numbers(name):
    net, x = NETS[name]().eval(), torch.randn(3, 6, 5)
    graph = load_model(net, example=(x,)).graph
    split = graph.copy()
    layers = split_layers(split, "cell")
    verify(split)
    assert layers == [*(f"cell.l{i}" for i in range(net.cell.num_layers - 1)), "cell"]
    assert [split[layer].layer.num_layers for layer in layers] == [1] * net.cell.num_layers
    for ours, wanted in zip(lower(split)(x), net(x), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=0)


def test_weights_are_the_same_tensors_and_dropout_is_an_op():
    net = NETS["lstm"]().eval()
    graph = load_model(net, example=(torch.randn(3, 6, 5),)).graph
    held = {id(tensor) for tensor in graph.tensors().values()}
    split_layers(graph, "cell")
    assert {id(tensor) for tensor in graph.tensors().values()} == held
    dropouts = [op for op in graph if op.kind == "dropout"]
    assert [op.layer.p for op in dropouts] == [0.25, 0.25]
    assert {op.lineage for op in dropouts} == {("cell",)}
