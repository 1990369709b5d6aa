"""Files of graphs with number forms: what the nodes are, and what a proof lets pass."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from backend_graphs import float_graph, samples
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from compressc.analysis.integers import full_range_layers, is_quantized, rounds_values
from compressc.backend import Backend, emit_proved
from compressc.backend.onnx_cleaning import dequantize_at_load
from compressc.data import Split
from compressc.errors import CompresscError
from compressc.ir import Graph, lower, parse_graph

FORM = "{in=288, out=64, input=u8{zero_point=true, dynamic=true}}"


def dynamic_graph() -> Graph:
    graph = float_graph()
    plain = " linear(%flat) {in=288, out=64} @fc.weight @fc.bias"
    rounding = f" quantized_linear(%flat) {FORM} @fc.bias @fc.weight @fc.scale"
    assert plain in str(graph)
    text = str(graph).replace(plain, rounding)
    tensors = {name: tensor.detach() for name, tensor in graph.tensors().items()}
    scale = tensors["fc.weight"].abs().amax(1) / 64
    rounded = torch.round(tensors["fc.weight"] / scale[:, None]).to(torch.int8)
    return parse_graph(text, {**tensors, "fc.weight": rounded, "fc.scale": scale})


def half_graph() -> Graph:
    graph = float_graph()
    text = str(graph).replace("f32", "f16")
    return parse_graph(text, {n: t.detach().half() for n, t in graph.tensors().items()})


class Off(Backend):
    """A file that computes the graph, times a factor."""

    name = "off"
    runtime = "numpy"
    suffix = "model.off"

    def __init__(self, factor, graph):
        super().__init__()
        object.__setattr__(self, "_answer", (factor, graph))

    def emit(self, graph, folder, example):
        folder.mkdir(exist_ok=True)
        (folder / self.suffix).write_text("")
        return folder / self.suffix

    def load(self, path, threads=1):
        factor, graph = self._answer
        module = lower(graph)
        return lambda *x: (module(*x).detach() * factor,)


def test_a_graph_says_what_is_rounded_when():
    dynamic, half = dynamic_graph(), half_graph()
    assert [ask(dynamic) for ask in (is_quantized, rounds_values)] == [True, True]
    assert [ask(half) for ask in (is_quantized, rounds_values)] == [False, False]
    assert full_range_layers(dynamic) == []
    dynamic["fc"].layer.weight[0, 0] = 65
    assert full_range_layers(dynamic) == ["fc"]


@pytest.mark.parametrize(
    ("make", "dtype", "fine", "wrong"),
    [
        (dynamic_graph, torch.float32, 1.02, 1.05),
        (half_graph, torch.float16, 1.003, 1.01),
    ],
)
def test_a_file_is_held_against_what_its_form_allows(make, dtype, fine, wrong, tmp_path):
    graph, split = make(), Split((samples(40).to(dtype),))
    assert emit_proved(Off(fine, graph), graph, tmp_path, split)[1].samples == 40
    with pytest.raises(CompresscError) as caught:
        emit_proved(Off(wrong, graph), graph, tmp_path, split)
    assert caught.value.code == "CC504"


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_stored_weight_becomes_floats_by_a_cast_and_products(zero, axis):
    draw = np.random.default_rng(0)
    weight = draw.integers(0, 255, (3, 4)).astype(np.uint8)
    scale = draw.uniform(0.1, 1, weight.shape[axis]).astype(np.float32)
    zeros = draw.integers(0, 255, weight.shape[axis]).astype(np.uint8)
    inputs = ["w", "s", "z"][: 2 + zero]
    tensors = [
        numpy_helper.from_array(a, n) for a, n in ((weight, "w"), (scale, "s"), (zeros, "z"))
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", inputs, ["f"], axis=axis),
            helper.make_node("MatMul", ["x", "f"], ["y"]),
        ],
        "g",
        [value("x", TensorProto.FLOAT, ["b", 3])],
        [value("y", TensorProto.FLOAT, ["b", 4])],
        tensors[: 2 + zero],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    dequantize_at_load(model.graph)
    onnx.checker.check_model(model)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds == ["Cast", *["Sub"] * zero, "Mul", "MatMul"]
    x = draw.standard_normal((2, 3)).astype(np.float32)
    (got,) = ReferenceEvaluator(model).run(None, {"x": x})
    shape = (-1, 1) if axis == 0 else (1, -1)
    floats = (weight.astype(float) - zero * zeros.reshape(shape)) * scale.reshape(shape)
    assert np.allclose(got, x @ floats, rtol=1e-4, atol=1e-3)
