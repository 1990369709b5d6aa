"""One stored weight for layers that share one, as it was in floats."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from compressc.ir import PRODUCTS, Graph
from compressc.ir.quantized import QUANTIZED, quantized_kind, quantized_layer
from compressc_quant.restoring import Held


def share_weights(graph: Graph, before: Mapping[str, Held]) -> None:
    """Let layers in floats take the integers of a product that shared their weight.

    nncf rounds a head and leaves the table of words that it shares in float, or a projection of
    values and not the same one of constants: both would be stored, which is more than the one
    weight in floats was.

    Args:
        graph: with rounded weights, edited in place.
        before: its layers as they were.
    """
    rounded: dict[int, Any] = {
        id(before[op.name].layer.weight): op.layer
        for op in graph
        if op.role in PRODUCTS and op.weight_form is not None and op.name in before
    }
    for op in list(graph):
        held = before.get(op.name)
        if held is None or held.kind not in QUANTIZED or op.weight_form is not None:
            continue
        shared = rounded.get(id(held.layer.weight))
        if shared is not None:
            made = quantized_layer(held.kind, held.layer, shared.weight, shared.scale)
            graph.set_layer(op.name, made, quantized_kind(held.kind))


def sharing(names: Sequence[str], before: Mapping[str, Held]) -> list[tuple[str, ...]]:
    """The ops in order, those that held one weight together, where the first of them is.

    Args:
        names: of ops and values.
        before: layers as they were.
    """
    found: dict[Hashable, list[str]] = {}
    for name in names:
        layer = before[name].layer if name in before else None
        weight = getattr(layer, "weight", None)
        found.setdefault(name if weight is None else id(weight), []).append(name)
    return [tuple(together) for together in found.values()]
