"""Programs in other words: decomposed ones, and writes that only the written value shows."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from raising_nets import X1, X2, Call, V, kinds, raised
from torch import nn
from torch.utils._pytree import tree_leaves

from compressc.frontend import export_module, import_program, load_model
from compressc.ir import LAYERS, Graph, lower, parse_graph, verify
from tests.models import ZOO


def _layers(graph: Graph) -> Counter[str]:
    return Counter(op.kind for op in graph if op.kind in LAYERS)


@pytest.mark.parametrize("name", ["digits_cnn", "dense_net", "u_net", "layouts", "cross_attention"])
def test_core_aten_is_raised_too(name: str) -> None:
    """Files are often saved after `run_decompositions`, which writes layers in other words."""
    module, example = ZOO[name]()
    program = export_module(module, example)
    core = program.run_decompositions()
    graph = import_program(core)
    verify(graph)
    with torch.no_grad():
        want, got = tree_leaves(core.module()(*example)), tree_leaves(lower(graph)(*example))
    assert all(torch.equal(a, b) for a, b in zip(want, got, strict=True))
    written_out = {"dropout", "adaptive_avg_pool2d", "hardswish", "mish", "linear"}
    assert set(_layers(import_program(program)) - _layers(graph)) <= written_out


class Statistics(nn.Module):
    """Reads the second result of a norm, which no layer gives."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, mean, _ = torch.native_layer_norm(x, [6], self.norm.weight, self.norm.bias, 1e-5)
        return y * mean


def test_a_norm_whose_statistics_are_read_stays_a_call() -> None:
    assert kinds(raised(Statistics(), V)).count("aten.native_layer_norm") == 1


def test_a_write_into_a_view_that_nothing_else_shows() -> None:
    """`F.dropout(x.flatten(1), inplace=True)`, as classifiers end."""
    graph = raised(Call(lambda m, x: F.dropout(x.flatten(1), 0.5, False, True) * 2), X2)
    assert kinds(graph) == ["aten.flatten.using_ints", "dropout", "aten.mul.Tensor"]


def test_a_write_into_a_view_whose_whole_is_read_later() -> None:
    def function(m: Any, x: torch.Tensor) -> torch.Tensor:
        whole = x * 2
        part = whole.flatten(1)[:, 1:]
        part.add_(1)
        return whole.sum(1)

    raised(Call(function), X1)


class BestFew(nn.Module):
    """The best three of a sequence, or all of it; alibi-like slices count from the end."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bias", torch.randn(1, 20))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        best = x.topk(torch.sym_min(3, x.shape[1]), 1).values
        return best.sum(1, keepdim=True) + x + self.bias[:, torch.sym_max(0, 20 - x.shape[1]) :]


def test_least_and_largest_of_sizes_read_back() -> None:
    module = BestFew().eval()
    graph = load_model(module, example=(torch.randn(3, 7),), input_spec=["x: f32[b,s]"]).graph
    text = str(graph)
    assert "Min(3,s)" in text
    again = parse_graph(text, graph.tensors())
    assert str(again) == text
    for length in (2, 3, 5, 20):
        x = torch.randn(2, length)
        assert torch.equal(lower(again)(x), module(x))
