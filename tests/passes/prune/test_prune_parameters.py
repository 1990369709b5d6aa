"""Parameters that values are multiplied with are weights: experts in one tensor, bare matrices."""

from __future__ import annotations

import pytest
import torch
from compressc_prune import Prune
from torch import nn

from compressc.data import Dataset, Split
from compressc.ir import lower
from compressc.testing import export_graph
from tests.passes.prune.prune_nets import kept_of, pruned, relative

HIDDEN = 12


class Experts(nn.Module):
    """A mixture of experts whose weights are two tensors, as large language models hold them."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(8, 3)
        self.up = nn.Parameter(torch.randn(3, 8, HIDDEN))
        self.down = nn.Parameter(torch.randn(3, HIDDEN, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.product(x, self.up).relu()
        answers = torch.einsum("beh,ehd->bed", hidden, self.down)
        return (answers * self.gate(x).softmax(-1)[..., None]).sum(1)

    def product(self, x: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bd,edh->beh", x, up)


class BatchedExperts(Experts):
    """The same with one product of matrices, [e, b, d] @ [e, d, h]."""

    def product(self, x: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        return torch.bmm(x.expand(3, *x.shape), up).transpose(0, 1)


class Positions(nn.Module):
    """A parameter that is added makes no width: its rows are positions."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(6, 8))
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((x[:, None] + self.positions).sum(1))


def unimportant(module: Experts, few: list[int]) -> None:
    """Make some hidden indices of all experts a hundred times smaller than the others."""
    with torch.no_grad():
        module.up[:, :, few] *= 0.01
        module.down[:, few] *= 0.01


@pytest.mark.parametrize("kind", [Experts, BatchedExperts])
@torch.no_grad()
def test_the_hidden_width_of_experts_goes_and_the_least_indices_first(kind):
    torch.manual_seed(0)
    module = kind().eval()
    few = [1, 4, 5, 8, 10, 11]
    unimportant(module, few)
    x = torch.randn(5, 8)
    after, context = pruned(export_graph(module, x), ratio=0.5)
    assert after["up"].layer.value.shape == (3, 8, HIDDEN // 2)
    assert after["down"].layer.value.shape == (3, HIDDEN // 2, 8)
    assert kept_of(after, "up", 2) == [0, 2, 3, 6, 7, 9]
    assert ("up", f"kept {HIDDEN // 2} of {HIDDEN} channels") in context.notes
    module.down[:, few] = 0
    assert relative(lower(after)(x), module(x)) < 1e-5


def test_gradients_weigh_them_too():
    """What is left is what the answers hang on, not what is large."""
    torch.manual_seed(0)
    module = Experts().eval()
    few = [0, 2, 3, 6, 7, 9]
    with torch.no_grad():
        module.up[:, :, few] *= 100
        module.down[:, few] = 0  # large, and read by nothing
    x = torch.randn(64, 8)
    part = Split((x,))
    data = Dataset("x", part, part, part)
    after, _ = pruned(export_graph(module, x[:5]), ratio=0.5, importance="taylor", data=data)
    assert kept_of(after, "up", 2) == [1, 4, 5, 8, 10, 11]


@torch.no_grad()
def test_a_parameter_that_is_added_stays():
    torch.manual_seed(0)
    graph = export_graph(Positions().eval(), torch.randn(5, 8))
    after, context = pruned(graph, ratio=0.5)
    assert after["positions"].layer.value.shape == (6, 8)
    verdict = Prune(ratio=0.5).coverage(graph, context)["positions"]
    assert "no layer and no product with a parameter makes it" in verdict.text
