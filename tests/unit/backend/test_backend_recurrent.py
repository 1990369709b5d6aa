"""Recurrent layers in files: one node with its weights, at lengths that nothing was traced with."""

from __future__ import annotations

import onnx
import pytest
import torch
from torch import nn

from compressc.backend.onnx import Onnx
from compressc.backend.openvino import OpenVino
from compressc.backend.proof import emit_proved
from compressc.backend.pt2 import Pt2
from compressc.data import Split
from compressc.frontend import load_model


class Net(nn.Module):
    """f32[n, length, 6], and states where it is told so -> the sequence, and the last state."""

    def __init__(self, rnn, given):
        super().__init__()
        self.rnn, self.out, self.given = rnn, nn.Linear(5 * (1 + rnn.bidirectional), 4), given

    def forward(self, x):
        x = x if self.rnn.batch_first else x.transpose(0, 1)
        states = None
        if self.given:
            count = self.rnn.num_layers * (1 + self.rnn.bidirectional)
            states = torch.ones(count, x.shape[1 - self.rnn.batch_first], 5) * x.mean()
            states = (states, states + 1) if isinstance(self.rnn, nn.LSTM) else states
        y, last = self.rnn(x, states)
        last = last[0] + last[1] if isinstance(last, tuple) else last
        y = y if self.rnn.batch_first else y.transpose(0, 1)
        return self.out(y), last.transpose(0, 1)


CASES = {
    "lstm": (nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True), False),
    "lstm, states": (nn.LSTM(6, 5, 2), True),
    "gru": (nn.GRU(6, 5, batch_first=True), False),
    "gru, states": (nn.GRU(6, 5, bidirectional=True, bias=False), True),
    "rnn": (nn.RNN(6, 5, 2, batch_first=True, bidirectional=True, nonlinearity="relu"), False),
    "rnn, states": (nn.RNN(6, 5), True),
}


def graph_of(case):
    torch.manual_seed(0)
    rnn, given = CASES[case]
    return load_model(Net(rnn, given).eval(), input_spec=["x: f32[b,s,6]"]).graph


@pytest.mark.parametrize("backend", [Pt2(), Onnx(), OpenVino()], ids=lambda b: b.name)
@pytest.mark.parametrize("case", CASES)
def test_files_run_at_any_length(case, backend, tmp_path):
    graph = graph_of(case)
    split = Split((torch.randn(12, 9, 6),))  # proved at 9 and at 5
    path, found = emit_proved(backend, graph, tmp_path, split)
    assert found.relative_rms_error < 1e-5
    run = backend.load(path)
    rnn, given = CASES[case]
    torch.manual_seed(0)
    net = Net(rnn, given).eval()
    for shape in ((2, 1, 6), (1, 33, 6)):
        x = torch.randn(shape)
        for got, want in zip(run(x), net(x), strict=True):
            assert torch.allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("case", ["lstm", "gru, states", "rnn"])
def test_each_layer_is_one_node_whose_weights_are_stored(case, tmp_path):
    graph = graph_of(case)
    path = Onnx().emit(graph, tmp_path, (torch.randn(4, 7, 6),))
    model = onnx.load(path).graph
    stored = {tensor.name for tensor in model.initializer}
    kind = case.split(",")[0].upper()
    nodes = [node for node in model.node if node.op_type in ("LSTM", "GRU", "RNN")]
    layer = graph["rnn"].layer
    assert [node.op_type for node in nodes] == [kind] * layer.num_layers
    weights = 3 if layer.bias else 2
    assert all(name in stored for node in nodes for name in node.input[1 : 1 + weights])
    assert not {"Loop", "Scan", "If"} & {node.op_type for node in model.node}
    assert [d.dim_param or d.dim_value for d in model.output[0].type.tensor_type.shape.dim] == [
        "b",
        "s",
        4,
    ]


def test_a_call_beside_a_layer_is_written_too(tmp_path):
    """Weights that depend on the input make no layer; the exporter has a translation of its own."""

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.other = nn.GRU(6, 6, batch_first=True), nn.GRU(6, 6, batch_first=True)

        def forward(self, x):
            y = self.rnn(x)[0]
            weights = [w * x.mean().sigmoid() for w in self.other._flat_weights]
            state = torch.zeros(1, x.shape[0], 6)
            return torch.ops.aten.gru.input(y, state, weights, True, 1, 0.0, False, False, True)[0]

    torch.manual_seed(0)
    graph = load_model(Mixed().eval(), input_spec=["x: f32[b,s,6]"]).graph
    assert {op.kind for op in graph} >= {"gru", "aten.gru.input"}
    _, found = emit_proved(Onnx(), graph, tmp_path, Split((torch.randn(6, 8, 6),)))
    assert found.relative_rms_error < 1e-5
