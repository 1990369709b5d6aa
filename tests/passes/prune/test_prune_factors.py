"""Groups of channels are cut once: the groups, or the channels of each, never both."""

from __future__ import annotations

import pytest
import torch
from compressc_prune import Prune
from torch import nn

from compressc.ir import lower
from compressc.testing import export_graph
from tests.passes.prune.prune_nets import pruned, relative, zeroed


class Grouped(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.made = nn.Conv2d(3, 16, 1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=groups)
        self.read = nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self.grouped(self.made(x).relu()).relu())


class Shuffled(nn.Module):
    """Blocks of pixels: their channels go, and one note says so."""

    def __init__(self) -> None:
        super().__init__()
        self.made, self.read = nn.Conv2d(3, 16, 3), nn.Conv2d(4, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(nn.functional.pixel_shuffle(self.made(x), 2).relu())


class NormalizedHeads(nn.Module):
    """Heads go, and a norm runs over the width of each."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.norm, self.out = nn.Linear(8, 48), nn.LayerNorm(4), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        y = nn.functional.scaled_dot_product_attention(self.norm(q), k, v)
        return self.out(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(("groups", "left"), [(2, 2), (8, 4)])
@torch.no_grad()
def test_half_of_grouped_channels_goes(groups, left):
    torch.manual_seed(0)
    x = torch.randn(5, 3, 6, 6)
    graph = export_graph(Grouped(groups).eval(), x)
    after, context = pruned(graph, ratio=0.5)
    assert after["made"].layer.out_channels == after["grouped"].layer.out_channels == 8
    assert after["grouped"].layer.groups == left
    assert relative(lower(after)(x), zeroed(graph, after)(x)) < 1e-5
    texts = " ".join(text for _, text in context.notes)
    assert "another factor of the same channels is cut instead" in texts


def test_a_factor_that_stays_is_not_told_beside_the_one_that_goes():
    torch.manual_seed(0)
    graph = export_graph(Shuffled().eval(), torch.randn(5, 3, 6, 6))
    _, context = pruned(graph, ratio=0.5)
    assert [text for op, text in context.notes if op == "made"] == ["kept 2 of 4 channels"]


def test_a_norm_over_each_head_follows_the_heads_and_keeps_its_width():
    torch.manual_seed(0)
    graph = export_graph(NormalizedHeads().eval(), torch.randn(5, 6, 8))
    after, context = pruned(graph, ratio=0.5)
    assert after["qkv"].layer.out_features == 24
    text = Prune(ratio=0.5).coverage(graph, context)["norm"].text
    assert text.startswith("follows the cut of %qkv; its own width stays: a norm or mean runs over")
