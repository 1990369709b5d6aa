"""Models for LiteRT: what its converter is given, and (where it is installed) what a file runs."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from backend_graphs import float_graph, integer_result, quantized_graph, samples

from compressc.backend import litert as module_under_test
from compressc.backend import load_backend
from compressc.backend.exporting import export_graph
from compressc.backend.signed_values import signed_values
from compressc.errors import CompresscError
from compressc.ir import lower, parse_graph

HERE = all(find_spec(name) is not None for name in ("litert_torch", "ai_edge_litert"))


@pytest.mark.parametrize("rounded", [True, False])
def test_weights_are_floats_for_the_converter_and_the_numbers_stay(rounded):
    graph, x = quantized_graph(), samples(16)
    module = export_graph(graph, (x,)).module()
    want = module(x)
    signed_values(module)
    module_under_test._float_weights(module, rounded=rounded)
    assert torch.equal(module(x), want)
    calls = [str(node.target) for node in module.graph.nodes if node.op == "call_function"]
    calls = [call for call in calls if "per_channel" in call]
    assert len(calls) == (4 if rounded else 0)
    assert sum("dequantize" not in call for call in calls) == (2 if rounded else 0)


def test_inputs_and_outputs_that_are_integers_in_the_file():
    form = {"dtype": np.int8, "quantization": (0.5, -3)}
    x = torch.tensor([[-100.0, -0.3, 0.0, 0.3, 100.0]])
    stored = module_under_test._stored(x, form)
    assert stored.tolist() == [[-128, -4, -3, -2, 127]]
    assert module_under_test._value(stored, form).tolist() == [[-62.5, -0.5, 0.0, 0.5, 65.0]]
    plain = {"dtype": np.float32, "quantization": (0.0, 0)}
    assert torch.equal(module_under_test._value(module_under_test._stored(x, plain), plain), x)


class Interpreter:
    """Of `y = fc(conv(x))`, the second in floats, as LiteRT's would tell of it."""

    def get_tensor_details(self):
        types = [np.int8, np.int8, np.int32, np.int8, np.float32, np.float32, np.float32]
        return [{"index": i, "dtype": dtype} for i, dtype in enumerate(types)]

    def get_input_details(self):
        return [{"index": 0}]

    def get_tensor(self, index):
        return np.full(3, index, np.int8)

    def _get_ops_details(self):
        return [
            {"op_name": "CONV_2D", "inputs": [0, 1, 2], "outputs": [3]},
            {"op_name": "DEQUANTIZE", "inputs": [3], "outputs": [4]},
            {"op_name": "FULLY_CONNECTED", "inputs": [4, 5, -1], "outputs": [6]},
            {"op_name": "DELEGATE", "inputs": [0, 1, 2], "outputs": [6]},
        ]


def test_weights_of_integer_nodes_are_found_by_the_types_around_them():
    (found,) = module_under_test._integer_weights(Interpreter())
    assert found.tolist() == [1, 1, 1]


def test_without_the_packages_it_is_said_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(module_under_test, "find_spec", lambda name: None)
    with pytest.raises(CompresscError, match=r"CC503.*torch and ai-edge-litert: pip install"):
        load_backend("litert").emit(float_graph(), tmp_path, (samples(2),))
    assert not list(tmp_path.iterdir())


def test_an_open_length_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(module_under_test, "find_spec", lambda name: name)
    graph = parse_graph("graph net(%x: f32[b,s]) {\n%y = relu(%x) : f32[b,s]\nreturn %y\n}")
    with pytest.raises(CompresscError, match=r"CC503.*%x has an open one"):
        load_backend("litert").emit(graph, tmp_path, (torch.randn(2, 3),))


@pytest.mark.parametrize("text", ["litert(batch=0)", "litert(most=1)"])
def test_wrong_options_are_errors(text):
    with pytest.raises(CompresscError, match=r"CC10[23]"):
        load_backend(text)


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="litert-torch or ai-edge-litert is not installed")
@pytest.mark.parametrize("kind", ["float", "quantized"])
def test_a_model_computes_the_graph_at_any_batch(kind, tmp_path):
    backend = load_backend("litert(batch=4)")
    graph = float_graph() if kind == "float" else quantized_graph()
    path = backend.emit(graph, tmp_path, (samples(2),))
    run = backend.load(path)
    for count in (1, 4, 9):
        (got,) = run(samples(count))
        assert got.shape == (count, 64)
        if kind == "float":
            assert (got - lower(graph)(samples(count))).abs().max() < 1e-5
        else:
            assert (got.double() - integer_result(graph, samples(count))).abs().max() < 0.06
    found = backend.int8_layers(path, graph)
    assert [layer.op for layer in found.left] == (["conv", "fc"] if kind == "float" else ["fc"])


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="litert-torch or ai-edge-litert is not installed")
def test_a_damaged_model_is_an_error(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"nothing")
    with pytest.raises(CompresscError, match="CC504"):
        load_backend("litert").load(path)
