"""Experts: which go, that the rest compute what they did, and what is not understood."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from compressc_prune import Prune
from compressc_prune.experts.cutting import find_experts
from torch import nn

from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.ir import Graph, graph_hash, parse_graph, run_graph
from compressc.testing import check_coverage, export_graph
from tests.passes.prune.prune_nets import pruned

COUNT, WIDE = 6, 8


class Experts(nn.Module):
    """Top-2 of six, their weights stacked, as transformers' `batched_mm` computes them."""

    def __init__(self, scores: str = "softmax", fault: str = "") -> None:
        super().__init__()
        self.router = nn.Linear(WIDE, COUNT)
        self.up = nn.Parameter(torch.randn(COUNT, 12, WIDE))
        self.down = nn.Parameter(torch.randn(COUNT, WIDE, 12))
        self.scores, self.fault = scores, fault

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.router(x)
        scores = logits.softmax(-1) if self.scores == "softmax" else logits.sigmoid()
        gates, chosen = scores.topk(2, -1)
        gates = gates / gates.sum(-1, keepdim=True)
        rows = x.repeat_interleave(2, 0).unsqueeze(-1)
        picked = chosen.reshape(-1)
        y = torch.bmm(self.down[picked], torch.relu(torch.bmm(self.up[picked], rows)))
        y = (y.squeeze(-1) * gates.reshape(-1, 1)).unflatten(0, (-1, 2)).sum(1)
        if self.fault == "scores":
            return x + y * scores.mean(-1, keepdim=True)
        if self.fault == "choice":
            return x + y + chosen.sum(-1, keepdim=True)
        return x + y


class Layers(nn.Module):
    def __init__(self, *experts: Experts) -> None:
        super().__init__()
        self.stem, self.layers = nn.Linear(5, WIDE), nn.ModuleList(experts)
        self.mlp, self.head = nn.Sequential(nn.Linear(WIDE, 16), nn.ReLU()), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.mlp(x))


def net(*experts: Experts) -> Layers:
    torch.manual_seed(0)
    return Layers(*(experts or (Experts(), Experts("sigmoid")))).eval()


@lru_cache
def graph() -> Graph:
    return export_graph(net(), torch.randn(7, 5))


def masked(module: Layers, kept: list[list[int]], x: torch.Tensor) -> torch.Tensor:
    """The module as it is, but that experts which are gone are never chosen."""
    with torch.no_grad():
        for layer, rest in zip(module.layers, kept, strict=True):
            gone = [i for i in range(COUNT) if i not in rest]
            layer.router.bias[gone] = -1e9
        return module(x)


def kept_in(after: Graph, name: str) -> list[int]:
    return list(after[name].kept[1])


def test_experts_are_found():
    found, refused = find_experts(graph())
    assert not refused
    assert [e.router for e in found] == ["layers.0.router", "layers.1.router"]
    first = found[0]
    assert (first.count, first.picked, first.groups) == (6, 2, 1)
    assert set(first.weights) == {"layers.0.up", "layers.0.down"}
    assert [first.left(share) for share in (0.9, 0.5, 0.1)] == [5, 3, 2]


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_what_is_left_computes_what_it_did(share):
    after, context = pruned(graph(), experts=share)
    count = round(COUNT * share)
    assert after["layers.0.router"].layer.weight.shape == (count, WIDE)
    assert after["layers.0.up"].layer.value.shape == (count, 12, WIDE)
    kept = [kept_in(after, f"layers.{i}.router") for i in (0, 1)]
    assert after["layers.1.down"].kept[0] == tuple(kept[1])
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(3))
    (ours,) = run_graph(after, (x,))
    torch.testing.assert_close(ours, masked(net(), kept, x), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(ours, net()(x), atol=1e-2)
    assert after["mlp.0"].layer.out_features == 16  # widths stay
    assert any(f"kept {count} of 6 experts" in text for _, text in context.notes)
    assert str(parse_graph(str(after), after.tensors())) == str(after)


def test_those_stay_that_most_is_routed_to():
    experts = Experts()
    module = net(experts)
    with torch.no_grad():
        experts.router.weight.mul_(0.01)
        experts.router.bias.copy_(torch.tensor([0.0, 5.0, 1.0, 0.0, 4.0, 3.0]))
        experts.up[0] *= 100  # by weights alone the first would stay
    made = export_graph(module, torch.randn(7, 5))
    part = Split((torch.randn(64, 5),))
    after, context = pruned(made, data=Dataset("made", part, part, part), experts=0.4)
    assert kept_in(after, "layers.0.router") == [1, 4]
    assert any("shares of experts" in text for _, text in context.notes)
    after, _ = pruned(made, experts=0.4)
    assert 0 in kept_in(after, "layers.0.router")


def test_widths_and_experts_together():
    after, context = pruned(graph(), experts=0.5, ratio=0.5)
    assert after["layers.0.router"].layer.weight.shape[0] == 3
    assert after["mlp.0"].layer.out_features == 8
    assert after["layers.0.up"].layer.value.shape == (3, 12, WIDE // 2)  # of the stream
    assert context.records["prune"]["left"]["parameters"] < 0.4


@pytest.mark.parametrize("options", [{"experts": 0.5}, {"experts": 0.5, "ratio": 0.5}])
def test_coverage_is_true(options):
    check_coverage(Prune(round_to=1, **options), graph())


@pytest.mark.parametrize(
    ("fault", "text"),
    [("scores", "%layers.1.mean reads the scores"), ("choice", "reads the choice")],
)
def test_a_router_that_is_read_otherwise_keeps_its_experts(fault, text):
    made = export_graph(net(Experts(), Experts(fault=fault)), torch.randn(7, 5))
    after, context = pruned(made, experts=0.5)
    assert after["layers.0.router"].layer.weight.shape[0] == 3
    assert after["layers.1.router"].layer.weight.shape[0] == 6
    assert any("no experts are cut here" in t and text in t for _, t in context.notes)


def test_no_experts_is_an_error():
    plain = export_graph(
        nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)), torch.ones(3, 5)
    )
    before = graph_hash(plain)
    with pytest.raises(CompresscError, match="no choice of the best of some scores") as caught:
        pruned(plain, experts=0.5)
    assert caught.value.code == "CC105"
    assert graph_hash(plain) == before


@pytest.mark.slow
def test_mixtral():
    from compressc.analysis import symbolize_widths
    from compressc.frontend import load_model
    from tests.zoo.language_models import MODELS

    case = MODELS["mixtral"]()
    made = load_model(case.module, input_spec=case.specs).graph
    symbolize_widths(made)
    after, _ = pruned(made, experts=0.5)
    routers = [e.router for e in find_experts(made)[0]]
    assert len(routers) == 2
    kept = [kept_in(after, name) for name in routers]
    assert [len(rest) for rest in kept] == [2, 2]
    example = case.example(b=3, s=6)
    with torch.no_grad():
        for name, rest in zip(routers, kept, strict=True):
            wanted = torch.full((4,), -1e9).index_fill(0, torch.tensor(rest), 0.0)
            router = nn.Linear(32, 4)
            router.weight, router.bias = made[name].layer.weight, nn.Parameter(wanted)
            made.set_layer(name, router)
        ours, theirs = (run_graph(g, example)[0] for g in (after, made))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
