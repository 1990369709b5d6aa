"""Inputs and outputs of an ONNX file have the names of the graph's values."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compressc.backend import load_backend
from compressc.backend.onnx_cleaning import drop_unused, name_values
from compressc.ir import lower, parse_graph

#: kind -> further arguments: ops from f32[b,4] to f32[b,4], layer kinds and ATen kinds.
KINDS = {
    **dict.fromkeys(("relu", "gelu", "sigmoid", "tanh", "silu"), ""),
    **dict.fromkeys(("aten.sigmoid", "aten.exp", "aten.neg", "aten.abs", "aten.tanh"), ""),
    **{"aten.softmax.int": ", 1", "aten.log_softmax.int": ", 1", "aten.cumsum": ", 1"},
    **{"aten.add.Tensor": ", 1.0", "aten.mul.Tensor": ", 2.0", "aten.sub.Tensor": ", 1.0"},
    **{"aten.div.Tensor": ", 2.0", "aten.pow.Tensor_Scalar": ", 2", "aten.clamp": ", 0.1"},
    **{"aten.view": ", [b, 4]", "aten.reshape": ", [b, 4]", "aten.expand": ", [b, 4]"},
    **{
        "aten.permute": ", [0, 1]",
        "aten.flip": ", [1]",
        "aten.clone": "",
        "aten.roll": ", [1], [1]",
    },
}
FEW = ("relu", "aten.sigmoid", "aten.softmax.int", "aten.mul.Tensor", "aten.view", "aten.clone")


def stem(kind):
    return kind.split(".")[1] if "." in kind else kind


def emitted(graph, folder, inputs):
    return load_backend("onnx").emit(graph, folder, inputs)


@pytest.mark.parametrize("kinds", [FEW, pytest.param(tuple(KINDS), marks=pytest.mark.slow)])
def test_every_kind_may_stand_inside_and_be_an_output(kinds, tmp_path):
    """Each op twice: the inner value takes the name that the exporter gives to the first."""
    lines, outputs, seen = [], [], set()
    for number, kind in enumerate(kinds):
        rest = KINDS[kind]
        name = stem(kind) if stem(kind) not in seen else f"again.{stem(kind)}"
        seen.add(stem(kind))
        lines.append(f"%inner{number} = {kind}(%x{rest}) : f32[b,4]")
        lines.append(f"%{name} = {kind}(%inner{number}{rest}) : f32[b,4]")
        outputs.append(f"%{name}")
    text, results = "\n".join(lines), ", ".join(outputs)
    graph = parse_graph(f"graph g(%x: f32[b,4]) {{\n{text}\nreturn [{results}]\n}}")
    x = torch.randn(3, 4)
    path = emitted(graph, tmp_path, (x,))
    onnx.checker.check_model(onnx.load(path), full_check=True)
    got = load_backend("onnx").load(path)(x)
    for name, ours, theirs in zip(graph.output_names, lower(graph)(x), got, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-6, equal_nan=True, msg=name)
    assert [value.name for value in onnx.load(path).graph.output] == graph.output_names


@pytest.mark.parametrize("inner", ["sigmoid", "fc.weight"])
def test_an_input_may_have_any_name(inner, tmp_path):
    graph = parse_graph(
        f"""
    graph g(%{inner}: f32[b,4]) {{
      %fc = linear(%{inner}) {{in=4, out=4}} @fc.weight @fc.bias : f32[b,4]
      %a = aten.sigmoid(%fc) : f32[b,4]
      %b = aten.sigmoid(%a) : f32[b,4]
      %c = aten.mul.Tensor(%a, %b) : f32[b,4]
      return %c
    }}""",
        {"fc.weight": torch.randn(4, 4), "fc.bias": torch.randn(4)},
    )
    x = torch.randn(3, 4)
    path = emitted(graph, tmp_path, (x,))
    assert [value.name for value in onnx.load(path).graph.input] == [inner]
    (got,) = load_backend("onnx").load(path)(x)
    torch.testing.assert_close(got, lower(graph)(x))


@pytest.mark.parametrize("name", ["onnx", "openvino", "pt2"])
def test_outputs_that_are_inputs_constants_or_returned_twice(name, tmp_path):
    graph = parse_graph(
        """
    graph g(%x: f32[b,4], %y: f32[b,4]) {
      %table = constant() {} @table : f32[3]
      %s = aten.sigmoid(%x) : f32[b,4]
      %s_1 = aten.sigmoid(%s) : f32[b,4]
      return [%x, %s, %s, %s_1, %table, %y, %s]
    }""",
        {"table": torch.arange(3.0)},
    )
    inputs = torch.randn(3, 4), torch.randn(3, 4)
    backend = load_backend(name)
    path = backend.emit(graph, tmp_path, inputs)
    got = backend.load(path)(*inputs)
    want = lower(graph)(*inputs)
    assert len(got) == len(want) == 7
    for ours, theirs in zip(want, got, strict=True):
        torch.testing.assert_close(theirs, ours)
    if name == "onnx":
        names = [value.name for value in onnx.load(path).graph.output]
        assert names == ["x_1", "s", "s_2", "s_1", "table", "y_1", "s_3"]


def branching():
    """`y = x + w` in a branch; nothing else reads `w`."""
    kept = [helper.make_node("Add", ["x", "w"], ["y"])]
    other = [helper.make_node("Identity", ["x"], ["else"])]
    branches = {
        "then_branch": helper.make_graph(kept, "then", [], [_float("y")]),
        "else_branch": helper.make_graph(other, "else", [], [_float("else")]),
    }
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["out"], **branches),
    ]
    stored = {"w": np.ones(4, np.float32), "zero": np.float32(0)}
    tensors = [numpy_helper.from_array(np.asarray(v), n) for n, v in stored.items()]
    graph = helper.make_graph(nodes, "g", [_float("x")], [_float("out")], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _float(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [4])


def test_names_inside_a_branch_are_changed_too():
    model = branching()
    name_values(model.graph, ["w"], ["y"])  # both are names of inner values
    drop_unused(model.graph)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (got,) = session.run(["y"], {"w": np.full(4, 2, np.float32)})
    np.testing.assert_array_equal(got, np.full(4, 3, np.float32))
