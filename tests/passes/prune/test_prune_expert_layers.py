"""Experts that are layers of their own, however their results are put together."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
import torch.nn.functional as F
from compressc_prune import Prune
from compressc_prune.experts.cutting import find_experts
from torch import nn

from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.ir import Graph, graph_hash, parse_graph, run_graph
from compressc.testing import check_coverage, export_graph
from tests.passes.prune.prune_nets import pruned

COUNT, WIDE, PICKED = 6, 8, 2


class Mixture(nn.Module):
    """A stem, a router, experts of two layers and a head; `mix` says how they are joined."""

    def __init__(self, count: int = COUNT) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, WIDE), nn.Linear(WIDE, 3)
        self.router = nn.Linear(WIDE, count)
        self.bias = nn.Buffer(torch.linspace(-0.02, 0.02, count))
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDE, 12), nn.GELU(), nn.Linear(12, WIDE)) for _ in range(count)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(x + self.mix(x))

    def mix(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def best(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.router(x).softmax(-1).topk(PICKED, -1)


class DenseStack(Mixture):
    def mix(self, x):
        y = torch.stack([expert(x) for expert in self.experts], -2)
        return (self.router(x).softmax(-1).unsqueeze(-1) * y).sum(-2)


class DenseLoop(Mixture):
    def mix(self, x):
        gates, y = self.router(x).softmax(-1), 0
        for i, expert in enumerate(self.experts):
            y = y + gates[..., i : i + 1] * expert(x)
        return y


class DenseUnbind(Mixture):
    def mix(self, x):
        y = torch.zeros_like(x)
        for gate, expert in zip(self.router(x).sigmoid().unbind(-1), self.experts, strict=True):
            y += gate.unsqueeze(-1) * expert(x)
        return y


class DenseEinsum(Mixture):
    def mix(self, x):
        y = torch.stack([expert(x) for expert in self.experts], 1)
        return torch.einsum("be,bed->bd", self.router(x).softmax(-1), y)


class DenseMatmul(Mixture):
    def mix(self, x):
        y = torch.stack([expert(x) for expert in self.experts], 1)
        return (self.router(x).softmax(-1).unsqueeze(1) @ y).squeeze(1)


class TopScatter(Mixture):
    def mix(self, x):
        scores, chosen = self.best(x)
        gates = torch.zeros(x.shape[0], len(self.experts)).scatter(-1, chosen, scores)
        y = torch.stack([expert(x) for expert in self.experts], -1)
        return (y * gates.unsqueeze(-2)).sum(-1)


class TopEqual(Mixture):
    def mix(self, x):
        scores, chosen = self.router(x).topk(PICKED, -1)
        scores, y = scores.softmax(-1), torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            y = y + (scores * (chosen == i)).sum(-1, keepdim=True) * expert(x)
        return y


class TopWhere(Mixture):
    def mix(self, x):
        scores, chosen = self.router(x).softmax(-1).max(-1)
        y = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            part = expert(x) * scores.unsqueeze(-1)
            y = y + torch.where((chosen == i).unsqueeze(-1), part, torch.zeros_like(x))
        return y


class TopOneHot(Mixture):
    def mix(self, x):
        scores, chosen = self.best(x)
        gates, y = (F.one_hot(chosen, len(self.experts)) * scores.unsqueeze(-1)).sum(-2), 0
        for i, expert in enumerate(self.experts):
            y = y + gates[:, i].unsqueeze(-1) * expert(x)
        return y


class TopGather(Mixture):
    def mix(self, x):
        scores, chosen = self.best(x)
        y = torch.stack([expert(x) for expert in self.experts], 1)
        y = torch.gather(y, 1, chosen.unsqueeze(-1).expand(-1, -1, WIDE))
        return (y * scores.unsqueeze(-1)).sum(1)


class TopMasked(Mixture):
    def mix(self, x):
        logits = self.router(x)
        least = logits.topk(PICKED, -1).values[..., -1:]
        gates = logits.masked_fill(logits < least, -torch.inf).softmax(-1)
        y = torch.stack([expert(x) for expert in self.experts], -2)
        return (gates.unsqueeze(-1) * y).sum(-2)


class Corrected(Mixture):
    """DeepSeek-V3: chosen by corrected scores, weighted by those that are not."""

    def mix(self, x):
        scores, y = self.router(x).sigmoid(), torch.zeros_like(x)
        chosen = (scores + self.bias).topk(PICKED, -1)[1]
        gates = scores.gather(1, chosen)
        gates = gates / gates.sum(-1, keepdim=True)
        for i, expert in enumerate(self.experts):
            y = y + (gates * (chosen == i)).sum(-1, keepdim=True) * expert(x)
        return y


class Grouped(Mixture):
    """DeepSeek-V3: experts of the best of two groups alone."""

    def mix(self, x):
        scores, y = self.router(x).sigmoid() + self.bias, torch.zeros_like(x)
        each = len(self.experts) // 2
        groups = scores.view(-1, 2, each).topk(2, -1)[0].sum(-1)
        best = torch.zeros_like(groups).scatter(1, groups.topk(1, -1)[1], 1)
        mask = best.unsqueeze(-1).expand(-1, 2, each).reshape(-1, 2 * each)
        gates, chosen = scores.masked_fill(~mask.bool(), -torch.inf).topk(PICKED, -1)
        for i, expert in enumerate(self.experts):
            y = y + (gates * (chosen == i)).sum(-1, keepdim=True) * expert(x)
        return y


KINDS = [
    *(DenseStack, DenseLoop, DenseUnbind, DenseEinsum, DenseMatmul, TopScatter, TopEqual),
    *(TopWhere, TopOneHot, TopGather, TopMasked, Corrected, Grouped),
]


@lru_cache
def made(kind: type[Mixture]) -> tuple[Mixture, Graph]:
    """Neither is changed by a test."""
    torch.manual_seed(0)
    module = kind().eval()
    return module, export_graph(module, torch.randn(7, 5))


def without(module: Mixture, kept: list[int], x: torch.Tensor) -> torch.Tensor:
    """The user's own code with the experts that are kept and no others."""
    with torch.no_grad():
        twin = type(module)(len(kept)).eval()
        for name in ("stem", "head"):
            getattr(twin, name).load_state_dict(getattr(module, name).state_dict())
        twin.router.weight.copy_(module.router.weight[kept])
        twin.router.bias.copy_(module.router.bias[kept])
        twin.bias.copy_(module.bias[kept])
        for ours, number in zip(twin.experts, kept, strict=True):
            ours.load_state_dict(module.experts[number].state_dict())
        return twin(x)


@pytest.mark.parametrize(
    ("kind", "with_data"),
    [*((kind, True) for kind in KINDS), *((kind, False) for kind in (DenseLoop, TopEqual))],
)
def test_what_is_left_is_the_same_code_with_fewer(kind, with_data):
    module, graph = made(kind)
    data = None
    if with_data:
        part = Split((torch.randn(64, 5),))
        data = Dataset("made", part, part, part)
    share = 2 / 3
    after, context = pruned(graph, experts=share, data=data)
    kept = list(after["router"].kept[1])
    assert len(kept) == 4
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        run_graph(after, (x,))[0], without(module, kept, x), rtol=1e-4, atol=1e-5
    )
    left = {op.name.split(".")[1] for op in after if op.name.startswith("experts.")}
    assert left == {str(number) for number in kept}
    assert any("kept 4 of 6 experts" in text for _, text in context.notes)
    assert str(parse_graph(str(after), after.tensors())) == str(after)


@pytest.mark.parametrize(
    ("kind", "options"), [(DenseLoop, {}), (TopScatter, {"ratio": 0.5}), (Grouped, {})]
)
def test_coverage_is_true(kind, options):
    check_coverage(Prune(round_to=1, experts=0.5, **options), made(kind)[1])


def test_largest_weights_stay_without_data():
    torch.manual_seed(0)
    module = TopEqual().eval()
    with torch.no_grad():
        for number in (1, 4, 5):
            module.experts[number][0].weight.mul_(3)
    after, _ = pruned(export_graph(module, torch.randn(7, 5)), experts=0.5)
    assert list(after["router"].kept[1]) == [1, 4, 5]


def test_as_many_stay_of_each_group():
    _, graph = made(Grouped)
    (experts,) = find_experts(graph)[0]
    assert (experts.groups, experts.left(0.67), experts.left(0.1)) == (2, 4, 4)
    after, _ = pruned(graph, experts=0.67)
    kept = list(after["router"].kept[1])
    assert [number // 3 for number in kept] == [0, 0, 1, 1]


class TakenByItself(Mixture):
    """The choice is read by something that has no expert of its own."""

    def mix(self, x):
        scores, chosen = self.best(x)
        y = chosen.sum(-1, keepdim=True).float()
        for i, expert in enumerate(self.experts):
            y = y + (scores * (chosen == i)).sum(-1, keepdim=True) * expert(x)
        return y


class OfAProduct(Mixture):
    """What an expert is weighted with goes into a product with the others."""

    def mix(self, x):
        gates, y = self.router(x).softmax(-1), torch.ones_like(x)
        for i, expert in enumerate(self.experts):
            y = y * (1 + gates[..., i : i + 1] * expert(x)).exp()
        return y


class NoExperts(Mixture):
    """Numbers of a box, no shares of anything."""

    def mix(self, x):
        x, y, w, h = self.router(x)[..., :4].unbind(-1)
        return torch.stack([x - w, y - h, x + w, y + h], -1).repeat(1, 2)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (TakenByItself, "%sum reads the choice"),
        (OfAProduct, "no choice of the best"),
        (NoExperts, "no choice of the best"),
    ],
)
def test_what_is_no_sum_of_experts_is_left(kind, reason):
    _, graph = made(kind)
    before = graph_hash(graph)
    with pytest.raises(CompresscError) as caught:
        pruned(graph, experts=0.5)
    assert caught.value.code == "CC105"
    assert reason in caught.value.got
    assert graph_hash(graph) == before


class Rows(Mixture):
    """Each expert computes the rows that chose it: their number depends on the values."""

    def mix(self, x):
        (scores, chosen), y = self.best(x), torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            row, place = torch.where(chosen == i)
            y.index_add_(0, row, expert(x[row]) * scores[row, place, None])
        return y


def test_rows_that_are_picked_by_values_name_the_call():
    with pytest.raises(CompresscError) as caught:
        made(Rows)
    assert caught.value.code == "CC202"
    assert "where" in caught.value.where or "nonzero" in caught.value.where
    assert "weighted with 0" in caught.value.hint
