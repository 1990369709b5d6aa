"""A layer kind that is registered with its traits is known to every table at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compressc_quant.verdicts import stated
from compressc_simplify import Simplify
from torch import nn
from torch.nn import functional as F

from compressc.analysis.cost import not_counted, total_cost
from compressc.distillation import choose_points, find_pairs
from compressc.ir import LAYERS, Graph, LayerKind, lower, parse_graph, print_graph, verify
from compressc.pipeline import Context
from compressc.tasks.heads import find_head
from compressc.testing import export_graph
from tests.passes.prune.prune_nets import pruned


class Bent(nn.Module):
    """An activation of a stranger: a function of each element by itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x where it is positive, an eighth of it elsewhere."""
        return torch.where(x > 0, x, x / 8)


class Own(nn.Linear):
    """A linear layer of a stranger."""


class OwnNorm(nn.LayerNorm):
    """A norm of a stranger."""


def network(*inner: nn.Module) -> Graph:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), *inner, nn.Linear(16, 3))
    return export_graph(net.eval(), torch.randn(5, 4))


def with_bent(monkeypatch: pytest.MonkeyPatch, role: Any) -> tuple[Graph, str]:
    """Linear, bent, linear; and the name of the one in the middle."""
    monkeypatch.setitem(LAYERS, "bent", LayerKind(Bent, role=role))
    graph = network(nn.ReLU())
    (name,) = (op.name for op in graph if op.kind == "relu")
    graph.set_layer(name, Bent(), "bent")
    verify(graph)
    return graph, name


def test_an_activation_is_seen_by_all(monkeypatch):
    graph, name = with_bent(monkeypatch, "activation")
    text = print_graph(graph)
    assert print_graph(parse_graph(text)) == text
    assert "= bent(" in text
    assert not_counted(graph) == {}
    assert total_cost(graph).macs == 4 * 16 + 16 * 3
    assert find_head(graph, name).kind == "hidden"
    after, _ = pruned(graph, ratio=0.5)
    assert (after["0"].layer.out_features, after["2"].layer.in_features) == (8, 8)
    assert choose_points(graph, "2", find_pairs(graph, graph), 1) == [name]


def test_a_layer_that_says_nothing_of_itself_is_left_alone(monkeypatch):
    graph, name = with_bent(monkeypatch, None)
    assert not_counted(graph) == {"bent": [name]}
    assert find_head(graph, name).kind == "other"
    after, context = pruned(graph, ratio=0.5)
    assert after["0"].layer.out_features == 16
    assert any("bent has no coupling rule" in text for _, text in context.notes)


def test_an_activation_of_the_library_is_raised_by_its_name(monkeypatch):
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Both forms have no options."""
            return F.logsigmoid(x)

    def kinds() -> list[str]:
        return [op.kind for op in export_graph(Net(), torch.randn(3, 4)) if op.kind != "input"]

    assert kinds() == ["aten.log_sigmoid"]
    monkeypatch.setitem(LAYERS, "log_sigmoid", LayerKind(nn.LogSigmoid, role="activation"))
    assert kinds() == ["log_sigmoid"]
    monkeypatch.setitem(
        LAYERS, "log_sigmoid", LayerKind(nn.LogSigmoid, {"x": "y"}, role="activation")
    )
    assert kinds() == ["aten.log_sigmoid"]


def test_a_product_is_seen_by_all(monkeypatch):
    known = LAYERS["linear"]
    own = LayerKind(Own, known.attributes, known.defaults, known.role, known.weight)
    monkeypatch.setitem(LAYERS, "own", own)
    graph = network(nn.BatchNorm1d(16), nn.ReLU())
    layer = Own(4, 16)
    with torch.no_grad():
        layer.weight[3] = layer.bias[3] = 0.0
    graph.set_layer("0", layer.eval(), "own")
    assert not_counted(graph) == {}
    assert total_cost(graph).macs == 4 * 16 + 16 * 3
    assert find_head(graph, "0").kind == "scores"
    after, _ = pruned(graph, ratio=0.25)
    assert after["0"].layer.out_features == 12
    assert 3 not in after["0"].kept[1]
    x = torch.randn(7, 4)
    expected = lower(graph)(x)
    folded = graph.copy()
    Simplify().run(folded, Context(graph))
    assert [op.kind for op in folded if op.layer is not None] == ["own", "relu", "linear"]
    assert torch.allclose(lower(folded)(x), expected, atol=1e-5)


def test_a_norm_is_seen_by_all(monkeypatch):
    known = LAYERS["layer_norm"]
    own = LayerKind(OwnNorm, known.attributes, known.defaults, known.role, known.weight)
    monkeypatch.setitem(LAYERS, "own_norm", own)
    graph = network(nn.LayerNorm(16))
    graph.set_layer("1", OwnNorm(16).eval(), "own_norm")
    verify(graph)
    assert find_head(graph, "1").kind == "hidden"
    assert "no int8 kernel" in stated(graph["1"])
    assert stated(graph["2"]) == ""
    after, _ = pruned(graph, ratio=0.5)
    assert after["1"].layer.normalized_shape == (16,)
    after, _ = pruned(graph, ratio=0.5, normalized=True)
    assert after["1"].layer.normalized_shape == (8,)
