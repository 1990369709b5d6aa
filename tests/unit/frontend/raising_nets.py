"""What the tests of raising share: a function as a module, and its graph, proved equal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from compressc.frontend import export_module, import_program
from compressc.ir import Graph, lower, verify

X1, X2, X3 = torch.randn(4, 6, 9), torch.randn(4, 6, 9, 9), torch.randn(4, 6, 5, 5, 5)
V = torch.randn(4, 6)


class Call(nn.Module):
    """One function as a module."""

    def __init__(self, function: Callable[..., Any], **held: nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, value in held.items():
            self.register_parameter(name, value)

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(self, *inputs)


def raised(module: nn.Module, *example: torch.Tensor) -> Graph:
    """The graph, proved bit-equal at two batch sizes."""
    module.eval()
    graph = import_program(export_module(module, example))
    verify(graph)
    lowered = lower(graph)
    for batch in (len(example[0]), 2):
        inputs = tuple(tensor[:batch].clone() for tensor in example)
        again = tuple(tensor.clone() for tensor in inputs)
        with torch.no_grad():
            pairs = zip(tree_leaves(module(*inputs)), tree_leaves(lowered(*again)), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)
    return graph


def kinds(graph: Graph) -> list[str]:
    return [op.kind for op in graph if op.kind != "input"]
