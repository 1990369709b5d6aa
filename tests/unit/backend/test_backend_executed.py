"""What runs in integers is counted in the graph that the runtime executes, layer by layer."""

import numpy as np
import pytest
import torch
from backend_graphs import float_graph, quantized_graph, samples
from compressc_quant import Quant

from compressc.analysis.integers import integer_layers
from compressc.backend import load_backend
from compressc.backend.executed import (
    holders_of_weights,
    int8_layers,
    readers_of_weights,
    weights_of_floats,
)
from compressc.backend.file_record import FileRecord
from compressc.ir import lower, parse_graph
from compressc.pipeline import Context
from compressc.report import text

RUNTIMES = ("onnx", "openvino")


def counted(name, graph, folder, x):
    backend = load_backend(name)
    return backend.int8_layers(backend.emit(graph, folder, (x,)), graph)


@pytest.mark.parametrize("name", RUNTIMES)
def test_all_layers_of_a_quantized_graph(name, tmp_path):
    found = counted(name, quantized_graph(), tmp_path, samples(4))
    assert (found.ran, found.of, found.left) == (2, 2, [])


@pytest.mark.parametrize("name", RUNTIMES)
def test_no_layer_of_a_float_graph(name, tmp_path):
    found = counted(name, float_graph(), tmp_path, samples(4))
    assert (found.ran, found.of) == (0, 2)
    assert {layer.reason for layer in found.left} == {"its weight is float"}


def mixed():
    """A convolution with a float result, a float one, and int8 weights on a float input."""
    form = "0.02, 128, 0, 255, dtype.u8"
    conv = "{in=4, out=4, kernel=3, padding=1}"
    pair = "quantized_decomposed.{}quantize_per_tensor"
    graph = f"""
    graph net(%x: f32[b,4,6,6]) {{
      %x.q = {pair.format("")}(%x, {form}) : u8[b,4,6,6]
      %x.dq = {pair.format("de")}(%x.q, {form}) : f32[b,4,6,6]
      %free = quantized_conv2d(%x.dq) {conv} @free.bias @free.weight @free.scale : f32[b,4,6,6]
      %silu = silu(%free) : f32[b,4,6,6]
      %plain = conv2d(%silu) {conv} @plain.weight @plain.bias : f32[b,4,6,6]
      %late = quantized_conv2d(%plain) {conv} @late.bias @late.weight @late.scale : f32[b,4,6,6]
      return %late
    }}"""
    tensors = {"plain.weight": torch.randn(4, 4, 3, 3), "plain.bias": torch.randn(4)}
    for name in ("free", "late"):
        weight = torch.randint(-64, 65, (4, 4, 3, 3)).to(torch.int8)
        tensors |= {f"{name}.weight": weight, f"{name}.scale": torch.full((4,), 0.01)}
        tensors[f"{name}.bias"] = torch.randn(4)
    return parse_graph(graph, tensors)


def test_onnx_runtime_says_which_are_not_and_why(tmp_path):
    found = counted("onnx", mixed(), tmp_path, torch.randn(4, 4, 6, 6))
    assert (found.ran, found.of) == (0, 3)
    assert {layer.op: layer.reason for layer in found.left} == {
        "free": "ONNX Runtime has no integer kernel for it here",
        "plain": "its weight is float",
        "late": "its input is float",
    }


def test_openvino_needs_no_integer_result(tmp_path):
    found = counted("openvino", mixed(), tmp_path, torch.randn(4, 4, 6, 6))
    assert (found.ran, found.of) == (1, 3)
    assert [layer.op for layer in found.left] == ["plain", "late"]


def test_pytorch_has_no_integer_kernels(tmp_path):
    graph = quantized_graph()
    backend = load_backend("pt2")
    assert backend.int8_layers(backend.emit(graph, tmp_path, (samples(4),)), graph) is None


@pytest.mark.parametrize(("reads", "ran"), [(0, set()), (1, {"a"}), (2, {"a", "b"})])
def test_a_shared_weight_counts_once_for_each_reader(reads, ran):
    graph = parse_graph("""
    graph net(%x: f32[b,4]) {
      %a = linear(%x) {in=4, out=4} @a.weight @a.bias : f32[b,4]
      %b = linear(%a) {in=4, out=4} @a.weight @b.bias : f32[b,4]
      return %b
    }""")
    assert readers_of_weights(graph, {"a.weight": reads}) == ran


def test_weights_are_known_by_what_they_hold_in_any_order():
    graph = quantized_graph()
    conv, fc = (graph[name].layer.weight.numpy() for name in ("conv", "fc"))
    assert holders_of_weights(graph, []) == set()
    assert holders_of_weights(graph, [conv.transpose(0, 2, 3, 1)]) == {"conv"}
    assert holders_of_weights(graph, [fc.T, np.ones(7, np.int8), conv]) == {"conv", "fc"}
    assert holders_of_weights(graph, [-fc]) == set()
    assert holders_of_weights(float_graph(), [conv]) == set()


def test_kernels_that_round_their_results_are_the_reason():
    found = int8_layers(mixed(), [], "a runtime", rounds_results=True)
    assert {layer.op: layer.reason for layer in found.left} == {
        "free": "its result is float, and integer kernels of a runtime round theirs",
        "plain": "its weight is float",
        "late": "its input is float",
    }
    rounded = int8_layers(quantized_graph(), [], "a runtime", rounds_results=True)
    assert rounded.left[0].reason == "a runtime has no integer kernel for it here"


def test_the_report_says_it_in_a_line():
    found = int8_layers(mixed(), {"free"}, "a runtime")
    record = FileRecord(
        format="onnx", path="m", bytes=1, teacher_bytes=2, int8_layers=found, needs="VNNI"
    )
    assert text.integers(record) == (
        "1 of 3 layers in int8; in float: plain (its weight is float); "
        "in float: late (its input is float); needs VNNI"
    )
    assert text.integers(record.model_copy(update={"int8_layers": None, "needs": ""})) == ""


def test_openvino_multiplies_stored_integers_as_floats_where_it_is_given_floats(tmp_path):
    graph = float_graph()
    Quant(mode="dynamic").run(graph, Context(teacher=graph))
    found = counted("openvino", graph, tmp_path, samples(4))
    assert (found.ran, [layer.op for layer in found.left]) == (0, ["conv", "fc"])
    assert found.left[1].reason == "OpenVINO has no integer kernel for it here"
    assert counted("onnx", graph, tmp_path, samples(4)).ran == 1


def padded(call, floats=False):
    """A convolution on what a call makes of integers, or of floats; 7 x 7 of 6 x 6 or as large."""
    form = "0.02, 128, 0, 255, dtype.u8"
    pair = "quantized_decomposed.{}quantize_per_tensor"
    size = 7 if "pad" in call else 6
    graph = f"""
    graph net(%x: f32[b,2,6,6]) {{
      %x.q = {pair.format("")}(%x, {form}) : u8[b,2,6,6]
      %x.dq = {pair.format("de")}(%x.q, {form}) : f32[b,2,6,6]
      %pad = {call.replace("x", "%x" if floats else "%x.dq", 1)} : f32[b,2,{size},{size}]
      %conv = quantized_conv2d(%pad) {{in=2, out=4, kernel=3}} @conv.bias @conv.weight @conv.scale : f32[b,4,{size - 2},{size - 2}]
      return [%conv, %x.dq]
    }}"""  # noqa: E501
    weight = torch.randint(-64, 65, (4, 2, 3, 3)).to(torch.int8)
    tensors = {"conv.weight": weight, "conv.scale": torch.full((4,), 0.01)}
    return parse_graph(graph, tensors | {"conv.bias": torch.randn(4)})


ZEROS = "aten.constant_pad_nd(x, [0, 1, 0, 1], 0.0)"
HALVES = "aten.constant_pad_nd(x, [0, 1, 0, 1], 0.5)"


@pytest.mark.parametrize(
    ("call", "integers"),
    [
        (ZEROS, True),
        (HALVES, False),
        ('aten.pad(x, [0, 1, 0, 1], "constant")', True),
        ('aten.pad(x, [0, 1, 0, 1], "constant", 0.5)', False),
        ('aten.pad(x, [0, 1, 0, 1], "replicate")', True),
        ("aten.flip(x, [2])", True),
        ("aten.roll(x, [1], [2])", True),
        ("aten.abs(x)", False),
    ],
)
def test_layers_behind_calls_that_pick_or_pad_with_zeros_read_integers(call, integers):
    assert [op.name for op in integer_layers(padded(call))] == ["conv"] * integers
    assert list(integer_layers(padded(call, floats=True))) == []


def test_weights_behind_padded_integers_stay_stored_for_onnx_runtime():
    assert weights_of_floats(padded(ZEROS)) == []
    assert weights_of_floats(padded(HALVES)) == []
    assert weights_of_floats(padded(ZEROS, floats=True)) == ["conv.weight"]
    assert weights_of_floats(padded("aten.roll(x, [1], [2])")) == ["conv.weight"]
    assert weights_of_floats(padded("aten.flip(x, [2])")) == []
    assert weights_of_floats(quantized_graph()) == []


def test_onnx_runtime_multiplies_floats_behind_a_selected_position(tmp_path):
    """Its weight is floats from load on: as a `MatMulNBits` its input would be rounded again."""
    form = "0.05, 128, 0, 255, dtype.u8"
    graph = parse_graph(
        f"""
    graph net(%x: f32[b,3,8]) {{
      %x.q = quantized_decomposed.quantize_per_tensor(%x, {form}) : u8[b,3,8]
      %x.dq = quantized_decomposed.dequantize_per_tensor(%x.q, {form}) : f32[b,3,8]
      %first = aten.select.int(%x.dq, 1, 0) : f32[b,8]
      %fc = quantized_linear(%first) {{in=8, out=4}} @fc.bias @fc.weight @fc.scale : f32[b,4]
      return %fc
    }}""",
        {
            "fc.weight": torch.randint(-64, 65, (4, 8)).to(torch.int8),
            "fc.scale": torch.full((4,), 0.01),
            "fc.bias": torch.randn(4),
        },
    )
    assert weights_of_floats(graph) == ["fc.weight"]
    x, backend = torch.randn(5, 3, 8), load_backend("onnx")
    path = backend.emit(graph, tmp_path, (x,))
    with torch.no_grad():
        assert torch.allclose(backend.load(path)(x)[0], lower(graph)(x), atol=1e-5)
    assert backend.int8_layers(path, graph).ran == 0
