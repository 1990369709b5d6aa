"""Inputs that are made where a run has no data."""

from __future__ import annotations

import torch

from compressc.ir import Graph, Op, Ref, TensorType, random_inputs, symbol


def test_random_inputs_have_sizes_that_the_model_takes() -> None:
    """A model with a kernel of 9 takes no sequence of 4, and one with a table of 3 none either."""
    b, s, t = map(symbol, "bst")
    graph = Graph("g")
    graph.append(Op("x", "input", type=TensorType(torch.float32, (b, s))))
    graph.append(Op("y", "input", type=TensorType(torch.int64, (b, t, 2))))
    graph.append(Op("z", "aten.relu", (Ref("x"),), type=TensorType(torch.float32, (b, s))))
    graph.outputs = (Ref("z"), Ref("y"))
    graph.limits = {"s": (9, None), "t": (1, 3)}
    x, y = random_inputs(graph, batch=4)
    assert (tuple(x.shape), tuple(y.shape)) == ((4, 9), (4, 3, 2))
    assert (graph.within_limits("b", 7), graph.within_limits("s", 99)) == (7, 99)
