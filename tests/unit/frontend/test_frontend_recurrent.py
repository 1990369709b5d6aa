"""Recurrent calls become one layer, with the length open."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compressc.frontend import load_model
from compressc.ir import layer_tensors, lower


class Tagger(nn.Module):
    """Ids [n, length] -> scores [n, length, 5]."""

    def __init__(self, rnn: nn.Module, states: object = None) -> None:
        super().__init__()
        self.words, self.rnn, self.states = nn.Embedding(30, 8), rnn, states
        self.out = nn.LazyLinear(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states = self.states(x) if callable(self.states) else None
        return self.out(self.rnn(self.words(x), states)[0])


def read(rnn, states=None):
    torch.manual_seed(0)
    net = Tagger(rnn, states).eval()
    net(torch.zeros(1, 2, dtype=torch.long))
    ids = torch.randint(0, 30, (6, 8))
    return net, load_model(net, example=(ids,), input_spec=["x: i64[b,s]"])


def check(net, graph):
    for rows, length in ((2, 1), (1, 3), (3, 40)):
        x = torch.randint(0, 30, (rows, length))
        with torch.no_grad():
            assert torch.equal(lower(graph)(x), net(x))


@pytest.mark.parametrize(
    ("kind", "rnn"),
    [
        ("lstm", nn.LSTM(8, 6, num_layers=2, batch_first=True, bidirectional=True, dropout=0.2)),
        ("gru", nn.GRU(8, 6, batch_first=True, bias=False)),
        ("rnn", nn.RNN(8, 6, batch_first=True, nonlinearity="relu")),
    ],
)
def test_one_layer_of_any_length(kind, rnn):
    net, found = read(rnn)
    assert found.notes == ()
    assert str(found.graph.type_of("x")) == "i64[b,s]"
    assert [op.kind for op in found.graph if op.layer] == ["embedding", kind, "linear"]
    op = found.graph["rnn"]
    assert (op.kind, op.inputs) == (kind, ("words",))  # the zeros it starts from are left out
    assert op.layer.dropout == rnn.dropout
    want = dict(rnn.named_parameters())
    for name, tensor in layer_tensors(op.layer):
        assert torch.equal(tensor, want[name])
    check(net, found.graph)


def test_states_that_are_given_stay_operands():
    def states(x):
        return torch.ones(1, x.shape[0], 6) * x.float().mean(), torch.zeros(1, x.shape[0], 6)

    net, found = read(nn.LSTM(8, 6, batch_first=True), states)
    assert len(found.graph["rnn"].inputs) == 3
    check(net, found.graph)


def test_weights_that_are_computed():
    rnn = nn.utils.parametrizations.weight_norm(nn.GRU(8, 6, batch_first=True), "weight_hh_l0")
    net, found = read(rnn)
    assert found.graph["rnn"].kind == "gru"
    assert "computed once" in found.notes[0]
    check(net, found.graph)


def test_projections_stay_a_call_of_any_length():
    net, found = read(nn.LSTM(8, 6, proj_size=4, batch_first=True))
    assert found.graph["rnn"].kind == "aten.lstm.input"
    assert str(found.graph.type_of("x")) == "i64[b,s]"
    check(net, found.graph)


def test_a_layer_that_is_used_twice_keeps_one_set_of_weights():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(6, 6, batch_first=True)

        def forward(self, x):
            return self.rnn(self.rnn(x)[0])[0]

    graph = load_model(Twice().eval(), input_spec=["x: f32[b,s,6]"]).graph
    first, second = (op for op in graph if op.kind == "gru")
    assert first.layer.weight_hh_l0 is second.layer.weight_hh_l0
