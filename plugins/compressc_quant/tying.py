"""One stored matrix for a table of words and the head that shares it, as it was in floats."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from compressc.ir import PRODUCTS, Graph
from compressc.ir.quantized import QUANTIZED, quantized_kind, quantized_layer
from compressc_quant.restoring import Held


def share_tables(graph: Graph, before: Mapping[str, Held]) -> None:
    """Let tables take the integers of a layer that shared their weight.

    nncf leaves such a table in float and rounds the layer: both would be stored, which is more than
    the one matrix in floats was.

    Args:
        graph: with rounded weights, edited in place.
        before: its layers as they were.
    """
    rounded: dict[int, Any] = {
        id(before[op.name].layer.weight): op.layer
        for op in graph
        if op.role in PRODUCTS and op.weight_form is not None and op.name in before
    }
    for name in tables(graph, before):
        held, shared = before[name], rounded.get(id(before[name].layer.weight))
        if shared is not None:
            made = quantized_layer(held.kind, held.layer, shared.weight, shared.scale)
            graph.set_layer(name, made, quantized_kind(held.kind))


def tables(graph: Graph, before: Mapping[str, Held]) -> Collection[str]:
    """Embeddings that were floats."""
    names = (op.name for op in graph if op.role == "embedding")
    return [name for name in names if name in before and before[name].kind in QUANTIZED]
