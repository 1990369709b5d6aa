"""What is kept, where it can be told by hand: two branches of 8 units that add up to 3 classes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compressc.data import Dataset, Split
from compressc.ir import Graph
from compressc.testing import export_graph
from tests.passes.prune.prune_nets import kept_of, pruned
from tests.unit.analysis.analysis_nets import symbolized

UNITS = 8


class TwoBranches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, UNITS, bias=False), nn.Linear(2, UNITS, bias=False)
        self.read_a, self.read_b = nn.Linear(UNITS, 3), nn.Linear(UNITS, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read_a(torch.relu(self.a(x))) + self.read_b(torch.relu(self.b(x)))


@pytest.fixture
def module() -> TwoBranches:
    torch.manual_seed(3)
    return TwoBranches().eval()


def exported(module: nn.Module) -> Graph:
    return export_graph(module, torch.randn(5, 2))


def data(x: torch.Tensor, labels: torch.Tensor | None = None) -> Dataset:
    part = Split((x,), labels)
    return Dataset("made", part, part, part)


@torch.no_grad()
def test_what_reads_a_unit_counts(module):
    """All rows are equal: only the columns of the layer behind tell the units apart."""
    module.a.weight.fill_(1.0)
    module.read_a.weight.fill_(0.1)
    module.read_a.weight[:, [1, 4, 5, 7]] = 2.0
    after, _ = pruned(exported(module), ratio=0.5)
    assert kept_of(after, "a", 1) == [1, 4, 5, 7]


@torch.no_grad()
def test_widths_are_ranked_on_one_scale(module):
    """The same branch with weights a hundred times as large loses as much, not nothing."""
    module.b.weight.copy_(100 * module.a.weight)
    module.read_b.weight.copy_(100 * module.read_a.weight)
    after, _ = pruned(exported(module), ratio=0.5, **{"global": True})
    left = [after[name].layer.out_features for name in ("a", "b")]
    assert abs(left[0] - left[1]) <= 1
    assert min(left) >= 3
    assert max(left) <= 5


@torch.no_grad()
def test_a_tenth_is_left_whatever_is_asked_for():
    net = nn.Sequential(nn.Linear(2, 40), nn.ReLU(), nn.Linear(40, 3)).eval()
    after, _ = pruned(exported(net), ratio=0.99)
    assert after["0"].layer.out_features == 4


@torch.no_grad()
def split_by_input(module: TwoBranches) -> None:
    """Units 0 to 3 of `a` see the first input alone, units 4 to 7 the second."""
    module.b.weight.zero_()
    module.a.weight[:4] = torch.tensor([1.0, 0.0])
    module.a.weight[4:] = torch.tensor([0.0, 1.0])
    module.read_a.weight.copy_(torch.eye(3).repeat(1, 3)[:, :UNITS])
    module.read_a.bias.copy_(torch.tensor([0.0, 0.0, 1.0]))  # small inputs are of the third class


def alone(count: int, which: int, size: float) -> torch.Tensor:
    """Samples whose other input is 0."""
    x = torch.zeros(count, 2)
    x[:, which] = torch.linspace(0.05, 1.0, count) * size
    return x[torch.randperm(count, generator=torch.Generator().manual_seed(0))]


@torch.no_grad()
def answers(module: TwoBranches, x: torch.Tensor) -> torch.Tensor:
    return module(x).argmax(-1)


def test_gradients_come_from_all_of_the_calibration_data(module):
    """The first 64 samples know the first input alone, later ones the second, which is larger."""
    split_by_input(module)
    x = torch.cat((alone(64, 0, 2.0), alone(192, 1, 6.0)))
    made = data(x, answers(module, x))
    after, _ = pruned(exported(module), importance="taylor", data=made)
    assert kept_of(after, "a", 1) == [4, 5, 6, 7]


def test_gradients_are_of_the_labels(module):
    """Samples of the first input have no label: what they answer has no part in the loss."""
    split_by_input(module)
    x = torch.cat((alone(32, 0, 6.0), alone(32, 1, 2.0)))
    labels = answers(module, x)
    assert len(labels[32:].unique()) == 2
    labels[:32] = -100
    after, _ = pruned(exported(module), importance="taylor", data=data(x, labels))
    assert kept_of(after, "a", 1) == [4, 5, 6, 7]


def test_without_labels_the_models_own_answers_are_the_loss(module):
    """Both inputs are there; the first one is larger, and nothing is said of what is right."""
    split_by_input(module)
    x = torch.zeros(64, 2)
    x[:32, 0], x[32:, 1] = 1.0, 0.01
    after, _ = pruned(exported(module), importance="taylor", data=data(x))
    assert kept_of(after, "a", 1) == [0, 1, 2, 3]


def test_a_tied_tensor_is_one_tensor_after_the_cut():
    graph = symbolized("tied_weights")
    before = graph["embedding"].layer.weight.shape[1]
    after, _ = pruned(graph, ratio=0.5)
    assert after["embedding"].layer.weight.shape[1] == before // 2
    assert after["embedding"].layer.weight is after["head"].layer.weight
