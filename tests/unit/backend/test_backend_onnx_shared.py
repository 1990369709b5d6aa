"""A matrix of integers that is read both ways is stored once, and computes the same."""

from __future__ import annotations

import numpy as np
import onnx_models
import pytest
from onnx import helper

from compressc.backend.onnx_shared import store_once, turn_dequantized

RNG = np.random.default_rng(0)
W = RNG.integers(-127, 128, (64, 32)).astype(np.int8)
S = RNG.random(64).astype(np.float32) / 50
X = RNG.standard_normal((5, 32)).astype(np.float32)


def model(turned):
    """x @ w^T @ w @ w^T: a head that shares the table of words, and reads it both ways."""
    nodes = [
        helper.make_node("DequantizeLinear", ["w:T", "s"], ["wt"], axis=1),
        helper.make_node("MatMul", ["x", "wt"], ["a"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["wf"], axis=0),
        helper.make_node("MatMul", ["a", "wf"], ["b"]),
        helper.make_node("MatMul", ["b", "wt"], ["y"]),
    ]
    stored = {"w": W, "w:T": np.ascontiguousarray(turned), "s": S}
    return onnx_models.model(nodes, width=32, out=64, stored=stored)


def result(made):
    return onnx_models.result(made, X)


@pytest.mark.parametrize("share", [store_once, turn_dequantized])
def test_a_matrix_that_is_read_both_ways_is_stored_once(share):
    made = model(W.T)
    weight = W * S[:, None]
    np.testing.assert_allclose(result(made), X @ weight.T @ weight @ weight.T, rtol=1e-4, atol=1e-3)
    want = result(made)
    share(made.graph)
    assert sorted(t.name for t in made.graph.initializer) == ["s", "w"]
    (turn,) = [node for node in made.graph.node if node.op_type == "Transpose"]
    assert (turn.input[0] == "w") == (share is store_once)
    np.testing.assert_array_equal(result(made), want)


@pytest.mark.parametrize("share", [store_once, turn_dequantized])
def test_matrices_that_differ_by_a_number_stay_two(share):
    other = W.T.copy()
    other[0, 0] += 1
    made = model(other)
    before = made.SerializeToString()
    share(made.graph)
    assert made.SerializeToString() == before


@pytest.mark.parametrize("share", [store_once, turn_dequantized])
def test_the_same_bytes_in_another_type_are_other_numbers(share):
    made = model(W.T.view(np.uint8))
    before = made.SerializeToString()
    share(made.graph)
    assert made.SerializeToString() == before
