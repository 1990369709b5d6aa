"""Chains: which repeated blocks take on what the one before gives, and what goes around them."""

from __future__ import annotations

import torch
from torch import nn

from compressc.analysis import find_chains
from compressc.testing import export_graph


class Residual(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.up, self.norm, self.down = (
            nn.Linear(width, 9),
            nn.LayerNorm(width),
            nn.Linear(9, width),
        )

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Stack(nn.Module):
    """Blocks in a row; `inner` returns what the activation of block 1 is, too."""

    def __init__(self, depth: int = 4, inner: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Residual() for _ in range(depth))
        self.head, self.inner = nn.Linear(6, 2), inner

    def forward(self, x):
        seen = []
        for block in self.blocks:
            seen.append(torch.relu(block.up(block.norm(x))))
            x = x + block.down(seen[-1])
        return (self.head(x), seen[1]) if self.inner else self.head(x)


def test_each_block_takes_what_the_one_before_gives():
    graph = export_graph(Stack(), torch.randn(2, 6))
    (chain,) = find_chains(graph)
    assert (chain.name, len(chain), chain.held) == ("blocks.{0..3}", 4, {})
    assert chain.entry == ("x",)
    ends = [member[chain.passed[0]] for member in chain.members]
    assert [graph[end].kind for end in ends] == ["aten.add.Tensor"] * 4
    assert graph["head"].inputs == (ends[-1],)


def test_a_block_whose_inner_value_is_returned_is_held():
    graph = export_graph(Stack(inner=True), torch.randn(2, 6))
    (chain,) = find_chains(graph)
    assert list(chain.held) == [1]
    assert chain.held[1].startswith("the model returns its %")


def test_two_values_go_around_a_block():
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.cells = nn.ModuleList(nn.Linear(5, 5) for _ in range(4))

        def forward(self, x, state):
            for cell in self.cells:
                state = torch.tanh(cell(x) * state)
                x = x + state
            return x

    graph = export_graph(Cell(), torch.randn(2, 5), torch.randn(2, 5))
    (chain,) = find_chains(graph)
    assert len(chain) == 4
    assert sorted(chain.entry) == ["state", "x"]
    last = [chain.members[-1][position] for position in chain.passed]
    assert sorted(graph[name].kind for name in last) == ["aten.add.Tensor", "tanh"]


def test_towers_side_by_side_are_no_chain_but_the_blocks_in_each_are():
    class Towers(nn.Module):
        def __init__(self):
            super().__init__()
            self.towers = nn.ModuleList(Stack() for _ in range(3))

        def forward(self, x):
            return torch.stack([tower(x) for tower in self.towers]).sum(0)

    chains = find_chains(export_graph(Towers(), torch.randn(2, 6)))
    assert [len(chain) for chain in chains] == [4, 4, 4]
    assert [chain.entry for chain in chains] == [("x",)] * 3
    assert len({chain.name for chain in chains}) == 3


def test_branches_make_no_chain():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.branches = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))

        def forward(self, x):
            return torch.cat([torch.relu(branch(x)) for branch in self.branches], 1)

    assert find_chains(export_graph(Branches(), torch.randn(2, 6))) == []


def test_nothing_that_repeats():
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    assert find_chains(export_graph(net, torch.randn(2, 6))) == []
