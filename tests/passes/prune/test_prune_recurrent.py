"""States of recurrent layers are a width: cut with all gates, layers and directions at once."""

from __future__ import annotations

import pytest
import torch
from compressc_prune import Prune
from torch import nn

from compressc.analysis.widths import symbolize_widths
from compressc.data import Dataset, Split
from compressc.frontend import load_model
from compressc.ir import lower, verify
from compressc.pipeline import Context

CELLS = {
    "lstm": nn.LSTM(16, 24, num_layers=2, batch_first=True, bidirectional=True),
    "lstm, one": nn.LSTM(16, 24, batch_first=True),
    "gru": nn.GRU(16, 24, num_layers=2, batch_first=True),
    "gru, both": nn.GRU(16, 24, batch_first=True, bidirectional=True, bias=False),
    "rnn": nn.RNN(16, 24, num_layers=2, batch_first=True, bidirectional=True, nonlinearity="relu"),
}


class Tagger(nn.Module):
    """Ids [n, length] -> scores [n, length, 5], or of the last states [n, 5]."""

    def __init__(self, rnn, reads="all", states=False):
        super().__init__()
        self.words, self.rnn, self.reads, self.states = nn.Embedding(40, 16), rnn, reads, states
        self.out = nn.Linear(24 * (1 + rnn.bidirectional) if reads == "all" else 24, 5)
        self.first = nn.Parameter(torch.randn(24)) if states else None

    def forward(self, ids):
        x, given = self.words(ids), None
        if self.states:
            count = self.rnn.num_layers * (1 + self.rnn.bidirectional)
            given = self.first.expand(count, ids.shape[0], 24)
            given = (given, given) if isinstance(self.rnn, nn.LSTM) else given
        y, last = self.rnn(x, given)
        last = last[0] if isinstance(last, tuple) else last
        if self.reads == "mean":
            return self.out(last[-1]) + last.mean((0, 2))[:, None]
        return self.out(y if self.reads == "all" else last[-1])


def pruned(net, **options):
    torch.manual_seed(0)
    ids = torch.randint(0, 40, (32, 9))
    part = Split((ids,))
    graph = load_model(net.eval(), example=(ids[:4],), input_spec=["ids: i64[b,s]"]).graph
    symbolize_widths(graph)
    context = Context(teacher=graph, data=Dataset("tags", part, part, part))
    found = graph.copy()
    options = {"ratio": 0.5, "statistics": False, "refit": False, **options}
    Prune(**options).run(found, context)
    verify(found)
    return graph, found, context


@pytest.mark.parametrize("reads", ["all", "last"])
@pytest.mark.parametrize("cell", CELLS)
def test_what_is_left_computes_what_the_module_does_with_zeros_for_the_rest(cell, reads):
    torch.manual_seed(0)
    net = Tagger(CELLS[cell], reads)
    _, found, _ = pruned(net)
    op = found["rnn"]
    assert (op.layer.hidden_size, op.layer.input_size) == (16, 8)
    reader = "rnn.getitem" if reads == "all" else "select"
    kept = torch.tensor(next(iter(found[reader].kept.values())))
    kept = kept[kept < 24]
    assert len(kept) == 16
    words = torch.tensor(found["words"].kept[2])
    twin = Tagger(type(net.rnn)(**{
        name: getattr(net.rnn, name) for name in
        ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "bidirectional")
    } | ({"nonlinearity": net.rnn.nonlinearity} if cell == "rnn" else {})), reads)  # fmt: skip
    twin.load_state_dict(net.state_dict())
    lost = torch.ones(24, dtype=torch.bool)
    lost[kept] = False
    gone = torch.ones(16, dtype=torch.bool)
    gone[words] = False
    with torch.no_grad():
        twin.words.weight[:, gone] = 0
        for tensor in twin.rnn.parameters():  # gates one after the other, by torch's documentation
            tensor.view(-1, 24, *tensor.shape[1:])[:, lost] = 0
        for rows, length in ((2, 1), (3, 30)):
            ids = torch.randint(0, 40, (rows, length))
            assert torch.allclose(lower(found)(ids), twin(ids), atol=1e-5)


@pytest.mark.parametrize("cell", ["lstm", "gru, both"])
def test_states_that_are_given_are_cut_alike(cell):
    torch.manual_seed(0)
    _, found, context = pruned(Tagger(CELLS[cell], states=True))
    assert found["rnn"].layer.hidden_size == 16
    assert found["first"].layer.value.shape == (16,)
    assert not [note for _, note in context.notes if "sliced is not zeroed" in note]


def test_a_mean_over_the_states_leaves_them_whole():
    torch.manual_seed(0)
    _, found, context = pruned(Tagger(CELLS["gru"], "mean"))
    assert found["rnn"].layer.hidden_size == 24
    assert any("runs over it" in note for name, note in context.notes if name == "rnn")


def test_the_indices_of_least_weight_go():
    torch.manual_seed(0)
    net = Tagger(nn.LSTM(16, 24, batch_first=True))
    small = torch.arange(24) % 3 == 0
    with torch.no_grad():
        for tensor in net.rnn.parameters():
            tensor.view(4, 24, *tensor.shape[1:])[:, small] *= 0.01
        net.out.weight[:, small] *= 0.01
    _, found, _ = pruned(net, ratio=1 / 3)
    assert found["rnn.getitem"].kept[2] == tuple(torch.arange(24)[~small].tolist())
