"""Rewritten ONNX models compute the same numbers; what does not fit the patterns stays as it is."""

import numpy as np
import onnx_models
import pytest
from onnx import TensorProto, helper

from compressc.backend.onnx_cleaning import clean, split_quantized_gemms


def model(nodes, **stored):
    return onnx_models.model(nodes, stored=stored)


X = np.linspace(-1, 1, 20, dtype=np.float32).reshape(5, 4)
W = np.arange(-6, 6, dtype=np.int8).reshape(3, 4)
S = np.array([0.1, 0.2, 0.3], dtype=np.float32)
B = np.array([1, -2, 3], dtype=np.float32)
DEQUANTIZE = helper.make_node("DequantizeLinear", ["w", "s"], ["wf"], axis=0)


def kinds(made):
    return [node.op_type for node in made.graph.node]


def result(made):
    return onnx_models.result(made, X)


def test_transposed_weights_are_stored_transposed():
    made = model(
        [
            DEQUANTIZE,
            helper.make_node("Transpose", ["wf"], ["wt"], perm=[1, 0]),
            helper.make_node("MatMul", ["x", "wt"], ["y"]),
        ],
        w=W,
        s=S,
    )
    clean(made)
    assert kinds(made) == ["DequantizeLinear", "MatMul"]
    assert [tuple(t.dims) for t in made.graph.initializer if t.data_type == TensorProto.INT8] == [
        (4, 3)
    ]
    np.testing.assert_allclose(result(made), X @ (W * S[:, None]).T, rtol=1e-6)


def test_a_weight_with_another_reader_stays_stored():
    made = model(
        [
            DEQUANTIZE,
            helper.make_node("Transpose", ["wf"], ["wt"], perm=[1, 0]),
            helper.make_node("MatMul", ["x", "wt"], ["a"]),
            helper.make_node("MatMul", ["a", "wf"], ["b"]),
            helper.make_node("MatMul", ["b", "wt"], ["y"]),
        ],
        w=W,
        s=S,
    )
    clean(made)
    weight = W * S[:, None]
    np.testing.assert_allclose(result(made), X @ weight.T @ weight @ weight.T, rtol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_quantized_gemm_is_split(bias):
    made = model(
        [DEQUANTIZE, helper.make_node("Gemm", ["x", "wf", *["b"] * bias], ["y"], transB=1)],
        w=W,
        s=S,
        **({"b": B} if bias else {}),
    )
    split_quantized_gemms(made.graph)
    assert kinds(made) == ["DequantizeLinear", "MatMul", *["Sub"] * bias]
    np.testing.assert_allclose(result(made), X @ (W * S[:, None]).T + B * bias, rtol=1e-5)


@pytest.mark.parametrize("scaled", [True, False])
def test_other_gemms_stay(scaled):
    """A float weight, or alpha and beta other than one."""
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)]
    stored = {"w": W.astype(np.float32), "b": B}
    if scaled:
        nodes = [
            DEQUANTIZE,
            helper.make_node("Gemm", ["x", "wf", "b"], ["y"], transB=1, alpha=0.5),
        ]
        stored = {"w": W, "s": S, "b": B}
    made = model(nodes, **stored)
    before = result(made)
    split_quantized_gemms(made.graph)
    assert kinds(made)[-1] == "Gemm"
    np.testing.assert_array_equal(result(made), before)


def test_remarks_and_dead_nodes_go():
    made = model(
        [
            helper.make_node("Exp", ["x"], ["unused"]),
            helper.make_node("MatMul", ["x", "w"], ["y"], doc_string="File '/somebody/net.py'"),
        ],
        w=W.T.astype(np.float32),
        other=S,
    )
    made.graph.node[1].metadata_props.add(key="stack", value="/somebody/net.py")
    clean(made)
    assert kinds(made) == ["MatMul"]
    assert [t.name for t in made.graph.initializer] == ["w"]
    assert b"somebody" not in made.SerializeToString()
