"""The proof of a cut: a coupling that is wrong is caught by numbers, and named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compressc.analysis.coupling_rules import FAMILIES
from compressc.analysis.coupling_rules.arithmetic import SAME
from compressc.data import Dataset, Split
from compressc.ir import lower
from compressc.testing import export_graph
from tests.passes.prune.prune_nets import pruned


class Flipped(nn.Module):
    """Two layers; the units of the first are turned round in between."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(x)).flip(1))))


@torch.no_grad()
def test_a_wrong_rule_costs_its_width_and_no_other(monkeypatch):
    """If `flip` were taken for an op that leaves every index where it is."""
    torch.manual_seed(0)
    graph = export_graph(Flipped().eval(), torch.randn(5, 4))
    monkeypatch.setitem(FAMILIES, "flip", SAME["clone"])
    after, context = pruned(graph, ratio=0.5)
    texts = dict(context.notes)
    assert texts["a"].startswith("skipped channels: sliced is not zeroed: outputs differ by")
    assert texts["b"] == "kept 8 of 16 channels"
    assert (after["a"].layer.out_features, after["b"].layer.out_features) == (16, 8)


class LastStep(nn.Module):
    """The state at the last valid step of a sequence: a length of 0 is none."""

    def __init__(self, least: int = 1) -> None:
        super().__init__()
        self.least = least
        self.words, self.out = nn.Embedding(30, 16), nn.Linear(16, 4)
        self.mixed = nn.Linear(16, 16)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        lengths, ids = rows.split((1, 6), 1)
        h = torch.relu(self.mixed(self.words(ids)))
        at = (lengths - self.least).unsqueeze(2).expand(-1, 1, h.shape[2])
        return self.out(h.gather(1, at).squeeze(1))


def sequences() -> torch.Tensor:
    return torch.cat((torch.randint(3, 7, (8, 1)), torch.randint(0, 30, (8, 6))), 1)


@pytest.mark.parametrize("with_data", [True, False])
@torch.no_grad()
def test_integers_that_the_model_does_not_take(with_data):
    """Real samples where there are data; else ones are tried where zeros are refused."""
    torch.manual_seed(0)
    module = LastStep().eval()
    graph = export_graph(module, sequences())
    part = Split((sequences(),))
    data = Dataset("d", part, part, part) if with_data else None
    after, context = pruned(graph, data=data)
    assert after["mixed"].layer.out_features == 8
    assert not any("no proof" in text for _, text in context.notes)
    assert all(not layer._forward_hooks for layer in lower(graph).children())


@torch.no_grad()
def test_where_nothing_runs_a_note_says_so():
    graph = export_graph(LastStep(least=3).eval(), sequences())
    after, context = pruned(graph)
    assert after["mixed"].layer.out_features == 8
    assert any("no proof of the cuts" in text for _, text in context.notes)
