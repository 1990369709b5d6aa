"""Putting parts of a quantized graph back to what they were: float layers that read floats."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from compressc.analysis.integers import is_integer
from compressc.editing import computes_on_integers, read_floats
from compressc.ir import Graph, Op
from compressc.ir.layer_building import copy_layer


@dataclass(frozen=True)
class Held:
    """A layer as it was before anything was rounded."""

    kind: str
    layer: nn.Module


def held_layers(graph: Graph) -> dict[str, Held]:
    """Op -> its layer, of a graph that is about to be quantized."""
    return {op.name: Held(op.kind, op.layer) for op in graph if op.layer is not None}


def rounded_ops(graph: Graph, before: Mapping[str, Held]) -> list[str]:
    """What can be put back one by one, in the order of the graph.

    Layers whose weight is rounded now, ops that read integers and compute, and outputs that are
    rounded, by the names of their values.

    Args:
        graph: quantized.
        before: of the same graph, by `held_layers`.
    """
    found = [op.name for op in graph if _is_rounded(graph, op, before)]
    return found + [name for name in dict.fromkeys(graph.output_names) if is_integer(graph, name)]


def restore(graph: Graph, names: Collection[str], before: Mapping[str, Held]) -> None:
    """Give these ops their layers back, and let them read floats.

    Args:
        graph: quantized, edited in place.
        names: of `rounded_ops`.
        before: what the layers were.
    """
    memo: dict[int, Any] = {}
    for name in names:
        if _weight_is_rounded(graph[name], before):
            held = before[name]
            graph.set_layer(name, copy_layer(held.layer, memo), held.kind)
    read_floats(graph, names)


def _weight_is_rounded(op: Op, before: Mapping[str, Held]) -> bool:
    return op.weight_form is not None and op.name in before and op.kind != before[op.name].kind


def _is_rounded(graph: Graph, op: Op, before: Mapping[str, Held]) -> bool:
    return _weight_is_rounded(op, before) or computes_on_integers(graph, op)
