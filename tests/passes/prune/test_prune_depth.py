"""Whole blocks: which go, with widths behind them and in steps, and what is said."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from compressc_prune import Prune
from torch import nn

from compressc.analysis import total_cost
from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.ir import Graph, graph_hash, run_graph
from compressc.pipeline import Pipeline
from compressc.spec import make
from compressc.tasks import settle
from compressc.testing import check_coverage, export_graph
from tests.passes.prune.prune_nets import pruned

#: How much each block adds to the stream: the third says next to nothing, the first most.
WEIGHTS = (1.0, 0.1, 1e-3, 0.3)


class Block(nn.Module):
    def __init__(self, weight: float) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        nn.init.normal_(self.down.weight, std=weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, 16), nn.Linear(16, 5)
        self.blocks = nn.ModuleList(Block(weight) for weight in WEIGHTS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@lru_cache
def stack() -> Graph:
    torch.manual_seed(0)
    return export_graph(Stack().eval(), torch.randn(4, 8))


@lru_cache
def data() -> Dataset:
    part = Split((torch.randn(160, 8, generator=torch.Generator().manual_seed(1)),))
    return Dataset("made", part, part, part)


def blocks_of(graph: Graph) -> set[int]:
    return {int(op.name.split(".")[1]) for op in graph if op.name.startswith("blocks.")}


def test_the_blocks_go_that_the_answers_need_least():
    after, context = pruned(stack(), data=data(), depth=0.5)
    assert blocks_of(after) == {0, 3}
    alone = context.records["costs of blocks.{0..3}"]
    assert sorted(range(4), key=alone.__getitem__) == [2, 1, 3, 0]
    assert alone[2] < 1e-4
    texts = [text for _, text in context.notes]
    assert "blocks.{0..3}: kept blocks 0 and 3, dropped 1 and 2" in texts
    assert after["stem"].layer.out_features == 16  # widths stay as they are
    assert after["blocks.0.up"].layer.out_features == 32
    (x,) = data().train.take(50).inputs
    ours, theirs = (run_graph(g, (x,))[0] for g in (after, stack()))
    assert ((ours - theirs).square().mean() / theirs.var()) < 0.1


def test_it_is_the_best_of_all_pairs_here():
    """The greedy choice beside every other one."""
    from compressc.analysis import find_chains
    from compressc.editing import drop_blocks

    (chain,) = find_chains(stack())
    (x,) = data().calibration.take(128).inputs
    wanted = run_graph(stack(), (x,))[0]
    errors = {}
    for a in range(4):
        for b in range(a):
            copy = stack().copy()
            drop_blocks(copy, chain, [a, b])
            errors[b, a] = float((run_graph(copy, (x,))[0] - wanted).square().mean())
    assert min(errors, key=errors.__getitem__) == (1, 2)


def test_without_data_blocks_are_spread():
    after, _ = pruned(stack(), depth=0.5)
    assert blocks_of(after) == {0, 2}
    after, context = pruned(stack(), data=data(), depth=0.75, blocks_by="similar")
    assert blocks_of(after) == {0, 1, 3}
    assert "likeness of blocks.{0..3}" in context.records


def test_widths_are_cut_behind_it_to_a_share_of_the_whole():
    after, context = pruned(stack(), data=data(), depth=0.5, params=0.4)
    assert blocks_of(after) == {0, 3}
    left = total_cost(after).parameters / total_cost(stack()).parameters
    assert left == pytest.approx(0.4, rel=0.03)
    assert context.records["prune"]["left"]["parameters"] == pytest.approx(left)
    after, _ = pruned(stack(), data=data(), depth=0.5, ratio=0.5)
    assert after["blocks.0.up"].layer.out_features == 16


def test_steps_go_on_behind_it():
    graph = stack()
    passes = [make(Prune, {"depth": 0.5, "ratio": 0.5, "steps": 2, "round_to": 1})]
    (result,) = Pipeline(passes, data(), task=settle(graph, data())).run(graph)
    assert blocks_of(result.graph) == {0, 3}
    assert result.graph["blocks.0.up"].layer.out_features == 16
    (step,) = result.records["steps"]
    assert step["left"]["parameters"] < 0.5  # of the model with all its blocks


@pytest.mark.parametrize("options", [{}, {"ratio": 0.5, "round_to": 1}])
@pytest.mark.parametrize("given", [None, "data"])
def test_coverage_is_true(options, given):
    check_coverage(Prune(depth=0.5, **options), stack(), data() if given else None)


def test_where_nothing_repeats_it_is_an_error():
    torch.manual_seed(0)
    graph = export_graph(
        nn.Sequential(nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 3)), torch.ones(4, 8)
    )
    before = graph_hash(graph)
    with pytest.raises(CompresscError) as caught:
        pruned(graph, depth=0.5)
    assert caught.value.code == "CC105"
    assert "pass 'prune' needs blocks that repeat" in caught.value.wanted
    assert graph_hash(graph) == before


@pytest.mark.parametrize(
    "options", [{"blocks_by": "costs"}, {"depth": 1.0}, {"depth": 0.5, "steps": 2}]
)
def test_options_that_make_no_sense(options):
    with pytest.raises(CompresscError, match="CC102"):
        make(Prune, options)


def test_blocks_by_what_they_cost_need_data():
    with pytest.raises(CompresscError, match="CC105"):
        Pipeline([make(Prune, {"depth": 0.5, "blocks_by": "costs"})]).run(stack())
