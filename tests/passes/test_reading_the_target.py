"""What our passes read of the target is what they say they do: the cache trusts it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import nn

from compressc.data import Dataset, Split
from compressc.pipeline import Context, parse_pass
from compressc.target import Target
from compressc.testing import export_graph

PARTS = frozenset(part.name for part in fields(Target))


class Watched(Target):
    """Notes which of its parts are read."""

    def __getattribute__(self, name: str) -> Any:
        """As ever, with a note."""
        if name in PARTS:
            object.__getattribute__(self, "__dict__").setdefault("read", set()).add(name)
        return super().__getattribute__(name)


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ("simplify", set()),
        ("prune(ratio=0.5)", set()),
        ("lowrank(rank=2)", set()),
        ("distill(epochs=1)", set()),
        ("quant", {"instruction_set"}),
        ("quant(range=full)", set()),
    ],
)
def test_a_pass_reads_no_more_of_the_target_than_it_says(text, reads):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    graph = export_graph(net, torch.randn(5, 4))
    split = Split((torch.randn(48, 4),), torch.arange(48) % 3)
    context = Context(graph, Dataset("random", split, split, split), target=Watched())
    context.target.__dict__["read"] = set()
    pass_ = parse_pass(text)
    with torch.enable_grad():
        pass_.run(graph.copy(), context)
    assert context.target.__dict__["read"] == reads
    declared = {"instruction_set"} if text.startswith("quant") else set()
    assert pass_.target_parts == declared
