"""Every back end: numbers, open batch, int8 stored and computed, nothing of the machine inside."""

import os
from collections import Counter

import numpy as np
import pytest
import torch
from backend_graphs import float_graph, integer_result, quantized_graph, samples

from compressc.backend import load_backend
from compressc.errors import CompresscError
from compressc.ir import lower, parse_graph
from compressc.plugins import BACKENDS, find

NAMES = ("pt2", "onnx", "openvino")
MAKERS = {"float": float_graph, "quantized": quantized_graph}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Each graph in each format: (back end, graph) -> path."""
    found = {}
    for kind, make in MAKERS.items():
        for name in NAMES:
            folder = tmp_path_factory.mktemp(f"{kind}-{name}")
            found[name, kind] = load_backend(name).emit(make(), folder, (samples(2),))
    return found


def test_ours_are_installed():
    assert set(NAMES) <= set(find(BACKENDS))


def test_unknown_name_is_an_error():
    with pytest.raises(CompresscError, match=r"CC107.*onnx"):
        load_backend("onxx")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 2, 5, 64])
def test_float_file_computes_the_graph_at_any_batch(files, name, count):
    (got,) = load_backend(name).load(files[name, "float"])(samples(count))
    want = lower(float_graph())(samples(count))
    assert got.shape == (count, 64)
    assert (got - want).abs().max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 50])
def test_quantized_file_computes_integer_arithmetic(files, name, count):
    (got,) = load_backend(name).load(files[name, "quantized"])(samples(count))
    want = integer_result(quantized_graph(), samples(count))
    # a step of an inner value that falls on the other side of a half adds at most this
    assert (got.double() - want).abs().max() < 0.03
    assert torch.nn.functional.cosine_similarity(got.double().flatten(), want.flatten(), 0) > 0.9999


@pytest.mark.parametrize("name", NAMES)
def test_int8_weights_are_stored_as_int8(files, name):
    backend = load_backend(name)
    size = {
        kind: sum(os.path.getsize(file) for file in backend.files(files[name, kind]))
        for kind in MAKERS
    }
    # 18,800 weights are 56 kB less in int8; the rest is structure
    assert size["float"] - size["quantized"] > 18_800 * 3 - 30_000
    assert size["float"] > 18_800 * 4 > size["quantized"]


@pytest.mark.parametrize("name", NAMES)
def test_files_tell_nothing_of_this_machine(files, name):
    here = os.path.abspath(os.path.join(os.path.dirname(torch.__file__), os.pardir)).encode()
    for file in load_backend(name).files(files[name, "quantized"]):
        content = file.read_bytes()
        assert here not in content
        assert b"backend_graphs.py" not in content
        assert samples(2).numpy()[0, 0, 0].tobytes() not in content  # the example is user data


def test_onnx_names_are_the_graphs(files):
    import onnx

    graph = onnx.load(files["onnx", "quantized"]).graph
    assert [value.name for value in graph.input] == ["x"]
    assert [value.name for value in graph.output] == ["fc"]
    dims = graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["b", 2, 6, 6]


def test_onnx_runtime_takes_int8_kernels(files, tmp_path):
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        str(files["onnx", "quantized"]), options, providers=["CPUExecutionProvider"]
    )
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert kinds["QLinearConv"] == 1
    assert kinds["MatMulIntegerToFloat"] == 1
    assert not kinds["Conv"] + kinds["Gemm"] + kinds["MatMul"]


def test_openvino_takes_int8_kernels(files):
    import openvino

    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(files["openvino", "quantized"]), "CPU", options)
    precision = {}
    for op in compiled.get_runtime_model().get_ops():
        info = op.get_rt_info()
        if "layerType" in info and "runtimePrecision" in info:
            precision[info["layerType"].astype(str)] = info["runtimePrecision"].astype(str)
    assert precision["Convolution"] == "u8"
    assert precision["FullyConnected"] == "u8"


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_exported_is_an_error(name, tmp_path):
    graph = parse_graph("""
    graph g(%x: f32[b,4]) {
      %y = aten.reshape(%x, [3, 4]) : f32[3,4]
      return %y
    }
    """)  # holds for a batch of 3 alone
    with pytest.raises(CompresscError, match="CC503"):
        load_backend(name).emit(graph, tmp_path, (torch.zeros(3, 4),))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_an_error(name, tmp_path):
    path = tmp_path / "model"
    path.write_bytes(b"nothing")
    with pytest.raises(CompresscError, match="CC504"):
        load_backend(name).load(path)


def test_several_inputs_and_outputs_keep_their_order(tmp_path):
    graph = parse_graph("""
    graph g(%first: f32[b,4], %second: f32[b,4]) {
      %difference = aten.sub.Tensor(%first, %second) : f32[b,4]
      %half = aten.mul.Tensor(%second, 0.5) : f32[b,4]
      return {"z": %difference, "a": %half, "again": %difference}
    }
    """)
    first, second = torch.randn(5, 4), torch.randn(5, 4)
    for name in NAMES:
        backend = load_backend(name)
        path = backend.emit(graph, tmp_path / name, (first, second))
        got = backend.load(path)(first, second)
        want = (first - second, second / 2, first - second)
        assert len(got) == 3
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6, err_msg=name)
