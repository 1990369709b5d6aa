"""What pruning makes of some hundred calls, against an oracle that knows no rules.

NaN is put into the removed channels of the user's own convolution: the columns of the linear layer
behind the call that turn NaN are those that read them. With these columns at zero the whole network
and the pruned one must agree, at another batch size.
"""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from torch import nn

from compressc.ir import Graph, lower
from compressc.testing import export_graph
from tests.passes.prune.op_table import CHANNELS, CUT, KEPT, SUMMED, Call
from tests.passes.prune.prune_nets import kept_of, pruned, relative, removed

TOLERANCE = 1e-4


class Branch(nn.Module):
    """A convolution, the call, and a linear layer that reads all of its result."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.made = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.module = call if isinstance(call, nn.Module) else None
        self.call = call
        self.conv3d = nn.Conv3d(1, 1, 3) if call is KEPT["conv3d"][0] else None
        with torch.no_grad():
            self.read = nn.Linear(self.middle(torch.randn(2, 3, 8, 8)).shape[1], 4)

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        y = self.call(self.made(x))
        return (y if self.conv3d is None else self.conv3d(y)).flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(self.middle(x))


class Branches(nn.Module):
    """Many calls in one graph: exporting is what takes time."""

    def __init__(self, calls: dict[str, Call]) -> None:
        super().__init__()
        self.names = list(calls)
        self.of = nn.ModuleList(Branch(call) for call in calls.values())

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [branch(x) for branch in self.of]


FAMILIES = {**CUT, "summed": SUMMED, "kept": {name: call for name, (call, _, _) in KEPT.items()}}


@lru_cache
def family(name: str) -> tuple[Branches, Graph, Graph, dict[str, str]]:
    """A family's network, its graph, the pruned graph, and the notes by op."""
    torch.manual_seed(0)
    module = Branches(FAMILIES[name]).eval()
    graph = export_graph(module, torch.randn(5, 3, 8, 8))
    after, context = pruned(graph, ratio=0.5)
    return module, graph, after, {op: text for ops, text in context.notes for op in ops.split(", ")}


def own_columns(branch: Branch, after: Graph, position: int, x: torch.Tensor) -> torch.Tensor:
    """What the linear layer reads of the removed rows of the call's own parameter, a mask."""
    columns = torch.zeros(branch.read.in_features, dtype=torch.bool)
    name = f"of.{position}.call.held"
    if name not in after:
        return columns
    held = branch.call.held
    for dim, kept in after[name].kept.items():
        gone = removed(held.shape[dim], list(kept))
        whole = held.clone()
        held.index_fill_(dim, torch.tensor(gone, dtype=torch.long), torch.nan)
        lost = branch.middle(x).isnan().any(0)
        if not lost.all():  # else it is what the convolution made, summed over
            columns |= lost
        held.copy_(whole)
    return columns


CASES = [(group, name) for group, calls in CUT.items() for name in calls]


@pytest.mark.parametrize(("group", "name"), CASES)
@torch.no_grad()
def test_channels_go(group, name):
    module, _, after, notes = family(group)
    position = module.names.index(name)
    branch, made = module.of[position], f"of.{position}.made"
    assert after[made].layer.out_channels == CHANNELS // 2, notes[made]
    gone = removed(CHANNELS, kept_of(after, made, 1))
    x = torch.randn(3, 3, 8, 8)
    whole = branch.made.bias.clone(), branch.read.weight.clone()
    branch.made.bias[gone] = torch.nan
    columns = branch.middle(x).isnan().any(0)
    branch.made.bias.copy_(whole[0])
    assert 0 < columns.sum() < len(columns)
    branch.read.weight[:, columns | own_columns(branch, after, position, x)] = 0
    want = branch(x)
    branch.read.weight.copy_(whole[1])
    assert relative(lower(after)(x)[position], want) < TOLERANCE


@pytest.mark.parametrize("name", SUMMED)
@torch.no_grad()
def test_channels_that_are_summed_go(name):
    """Here the convolution's own rows are zero: the sum reads all channels."""
    module, _, after, notes = family("summed")
    position = module.names.index(name)
    branch, made = module.of[position], f"of.{position}.made"
    assert after[made].layer.out_channels == CHANNELS // 2, notes[made]
    gone = removed(CHANNELS, kept_of(after, made, 1))
    x = torch.randn(3, 3, 8, 8)
    tensors = branch.made.weight, branch.made.bias, branch.read.weight
    whole = [tensor.clone() for tensor in tensors]
    branch.read.weight[:, own_columns(branch, after, position, x)] = 0
    branch.made.weight[gone], branch.made.bias[gone] = 0, 0
    want = branch(x)
    for tensor, was in zip(tensors, whole, strict=True):
        tensor.copy_(was)
    assert relative(lower(after)(x)[position], want) < TOLERANCE


@pytest.mark.parametrize("name", KEPT)
@torch.no_grad()
def test_channels_stay_and_the_reason_names_the_op(name):
    module, graph, after, notes = family("kept")
    position = module.names.index(name)
    made = f"of.{position}.made"
    _, reason, kind = KEPT[name]
    assert after[made].layer.out_channels == CHANNELS
    assert reason in notes[made]
    culprit = notes[made].rpartition(" at %")[2]
    assert graph[culprit].kind == kind
    x = torch.randn(3, 3, 8, 8)
    assert relative(lower(after)(x)[position], module.of[position](x)) < TOLERANCE
