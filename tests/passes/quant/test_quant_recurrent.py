"""Recurrent layers: int8 matrices, which ONNX Runtime multiplies as integers in an LSTM."""

from __future__ import annotations

import onnx
import pytest
import torch
from compressc_quant import Quant
from torch import nn

from compressc.analysis.cost import total_cost
from compressc.analysis.integers import full_range_layers
from compressc.backend import emit_proved
from compressc.backend.backend import load_backend
from compressc.data import Dataset, Split
from compressc.frontend import load_model
from compressc.ir import lower, parse_graph, print_graph, verify
from compressc.pipeline import Context
from compressc.target import Target

CELLS = {
    "lstm": nn.LSTM(16, 24, num_layers=2, batch_first=True, bidirectional=True),
    "gru": nn.GRU(16, 24, batch_first=True, bidirectional=True),
    "rnn": nn.RNN(16, 24, num_layers=2, bias=False, batch_first=True),
}


class Tagger(nn.Module):
    """Ids [n, length] -> scores [n, length, 5]."""

    def __init__(self, rnn):
        super().__init__()
        self.words, self.rnn = nn.Embedding(40, 16), rnn
        self.out = nn.Linear(24 * (1 + rnn.bidirectional), 5)

    def forward(self, ids):
        return self.out(self.rnn(self.words(ids))[0])


def case(kind):
    torch.manual_seed(0)
    ids = torch.randint(0, 40, (48, 9))
    net = Tagger(CELLS[kind]).eval()
    part = Split((ids,))
    graph = load_model(net, example=(ids[:4],), input_spec=["ids: i64[b,s]"]).graph
    return graph, Dataset("tags", part, part, part)


def off(got, want):
    return float((got - want).detach().norm() / want.detach().norm())


@pytest.mark.parametrize("mode", ["dynamic", "weights"])
@pytest.mark.parametrize("kind", CELLS)
def test_matrices_are_stored_with_a_scale_per_row(kind, mode, run):
    graph, data = case(kind)
    found, context = run(graph, data, mode=mode)
    verify(found)
    op, before = found["rnn"], graph["rnn"].layer
    assert op.kind == f"quantized_{kind}"
    assert (op.input_form is not None) == (kind == "lstm" and mode == "dynamic")
    for name in (name for name in before.names() if name.startswith("weight")):
        stored, scale = getattr(op.layer, name), getattr(op.layer, f"{name}_scale")
        weight = getattr(before, name).detach()
        largest = weight.abs().amax(1)
        assert torch.allclose(scale * stored.abs().amax(1), largest, rtol=1e-5)
        floats = stored * scale[:, None]
        assert float(((floats - weight).abs() / scale[:, None]).max()) < 0.5 + 1e-3
    text = print_graph(found)
    assert print_graph(parse_graph(text)) == text
    assert total_cost(found).parameters == total_cost(graph).parameters
    assert total_cost(found, b=2, s=5).macs == total_cost(graph, b=2, s=5).macs
    ids = data.test.inputs[0]
    assert off(lower(found)(ids), lower(graph)(ids)) < 0.03
    notes = [note for name, note in context.notes if name == "rnn"]
    assert [("int8 weights" in note) for note in notes] == [True]
    assert ("ONNX Runtime multiplies integers" in notes[0]) == (op.input_form is not None)


@pytest.mark.parametrize("kind", CELLS)
def test_files_compute_the_graph_and_hold_a_quarter_of_the_bytes(kind, run, tmp_path):
    graph, data = case(kind)
    found, _ = run(graph, data, mode="dynamic")
    matrices = sum(
        t.nbytes for name, t in found["rnn"].layer.named_buffers() if "scale" not in name
    )
    for name in ("onnx", "openvino", "pt2"):
        backend = load_backend(name)
        path, proof = emit_proved(backend, found, tmp_path / name, data.test)
        assert proof.relative_rms_error < 0.02
        with torch.no_grad():
            (got,) = backend.load(path)(data.test.inputs[0][:3, :4])
            assert off(got, lower(graph)(data.test.inputs[0][:3, :4])) < 0.03
        if name == "openvino":
            held = path.with_suffix(".bin").stat().st_size
            assert held < 2 * matrices
    backend = load_backend("onnx")
    path = next((tmp_path / "onnx").glob("*.onnx"))
    nodes = [node.op_type for node in onnx.load(path).graph.node]
    layers = found["rnn"].layer.num_layers
    assert nodes.count("DynamicQuantizeLSTM") == (layers if kind == "lstm" else 0)
    assert "DequantizeLinear" not in nodes  # it would be computed anew in each run
    told = backend.int8_layers(path, found)
    assert (told.ran, told.of) == ((2, 2) if kind == "lstm" else (1, 2))
    assert [(left.op, left.reason) for left in told.left] == (
        [] if kind == "lstm" else [("rnn", "its input is float")]
    )


def test_weights_keep_to_half_their_range_where_sums_overflow():
    graph, data = case("lstm")
    largest = {}
    for instructions in ("avx2", "avx512_vnni"):
        found = graph.copy()
        target = Target(instruction_set=instructions)
        Quant(mode="dynamic").run(found, Context(teacher=graph, data=data, target=target))
        largest[instructions] = int(found["rnn"].layer.weight_hh_l1_reverse.abs().max())
        assert ("rnn" in full_range_layers(found)) == (instructions != "avx2")
    assert largest == {"avx2": 64, "avx512_vnni": 127}


class Spotter(nn.Module):
    """Sound [n, 1, 64] -> scores [n, 3]: convolutions, then a recurrent layer."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(1, 16, 5, padding=2), nn.Conv1d(16, 16, 3, stride=2)
        self.rnn, self.out = nn.LSTM(16, 24, batch_first=True), nn.Linear(24, 3)

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.out(self.rnn(x.transpose(1, 2))[0][:, -1])


@pytest.mark.parametrize("options", [{}, {"train": True, "steps": 2}])
def test_observed_ranges_are_for_what_is_not_recurrent_and_the_mode_that_is_is_named(options, run):
    torch.manual_seed(0)
    sound = torch.randn(64, 1, 64)
    part = Split((sound,))
    graph = load_model(Spotter().eval(), example=(sound[:4],)).graph
    found, context = run(graph, Dataset("sounds", part, part, part), **options)
    assert [op.name for op in found if op.int8] == ["first", "second", "out"]
    assert found["rnn"].kind == "lstm"
    (text,) = [text for name, text in context.notes if name == "rnn"]
    assert text.startswith("skipped: ")
    assert "mode=dynamic" in text


def test_observed_ranges_leave_them_with_a_reason(run):
    graph, data = case("gru")
    found, context = run(graph, data)
    assert found["rnn"].kind == "gru"
    assert [name for name, _ in context.notes].count("rnn") == 1


@pytest.mark.parametrize("options", [{}, {"method": "gptq"}, {"max_drop": 0.9}], ids=str)
def test_beside_four_bits_they_have_eight(options, run):
    graph, data = case("gru")
    found, context = run(graph, data, mode="weights", bits=4, **options)
    assert found["rnn"].kind == "quantized_gru"
    assert found["rnn"].layer.weight_hh_l0.dtype == torch.int8
    assert str(found["out"].weight_form).startswith("u4")
    (note,) = [text for name, text in context.notes if name == "rnn"]
    assert note.startswith("int8 weights")


@pytest.mark.parametrize(
    "options", [{"mode": "dynamic"}, {"mode": "weights"}, {"mode": "weights", "bits": 4}]
)
def test_coverage_says_what_run_does(options):
    graph, data = case("lstm")
    told = Quant(**options).coverage(graph, Context(teacher=graph, data=data))["rnn"]
    assert told.outcome == "does"
    assert len(told.tensors) == 8
