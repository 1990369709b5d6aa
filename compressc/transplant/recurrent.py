"""Recurrent layers of the graph, called as a module of the user calls those of torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from compressc.ir import Graph
from compressc.ir.recurrent import Recurrent


class AsInTorch(nn.Module):
    """Layers that are called like `nn.LSTM` and its kin, with the sizes of the whole as attributes.

    Args:
        parts: recurrent layers on top of one another, with layers between and in front of them that
            take each place of a sequence by itself.
        like: what they stand for.
    """

    def __init__(self, parts: Sequence[nn.Module], like: Recurrent) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        layers = [part for part in parts if isinstance(part, Recurrent)]
        self.input_size = getattr(parts[0], "in_features", layers[0].input_size)
        self.hidden_size = layers[-1].hidden_size
        self.num_layers = sum(layer.num_layers for layer in layers)
        self.bidirectional, self.batch_first = like.bidirectional, like.batch_first
        self.bias, self.dropout = like.bias, like.dropout

    def forward(self, input: torch.Tensor, hx: Any = None) -> tuple[torch.Tensor, Any]:
        """Of [n, length, in] or [length, n, in], and states as torch's class takes them."""
        states = () if hx is None else hx if isinstance(hx, tuple | list) else (hx,)
        last, done = [], 0
        for part in self.parts:
            if isinstance(part, Recurrent):
                ends = done, (done := done + part.num_layers * part.directions)
                input, *own = part(input, *(state[slice(*ends)] for state in states))
                last.append(own)
            else:
                input = part(input)
        joined = tuple(torch.cat(own) for own in zip(*last, strict=True))
        return input, joined if len(joined) > 1 else joined[0]

    def flatten_parameters(self) -> None:
        """Nothing to do: users' code may ask for it."""


def calls_between(graph: Graph, layers: Collection[str]) -> Iterator[str]:
    """What `AsInTorch` does between layers: states are shared out, and put together again.

    Args:
        graph: holds them.
        layers: ops that have their place already.
    """

    def is_layer(name: str) -> bool:
        return name in layers and graph[name].role == "recurrent"

    def is_given(name: str) -> bool:
        return graph[name].kind == "getitem" and is_layer(graph[name].inputs[0])

    for op in graph:
        shared = op.kind == "aten.slice.Tensor" and all(
            is_layer(u.name) for u in graph.users(op.name)
        )
        joined = op.kind == "aten.cat.default" and all(map(is_given, op.inputs))
        if shared or joined or is_given(op.name):
            yield op.name
