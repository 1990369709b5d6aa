"""Calls of torch's recurrent operators become layers, with all their directions in one op."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from compressc.frontend.computed import WEIGHT_LISTS, call_arguments, held_tensor
from compressc.frontend.raising import place_tensor
from compressc.ir import Graph, Op, Ref, layer_tensors
from compressc.ir.layer_building import build_layer

#: What makes a state that a layer without one starts from.
_ZEROS = ("aten.zeros", "aten.new_zeros", "aten.zeros_like")


def raise_recurrent(graph: Graph) -> None:
    """Make layers of the recurrent calls whose weights are all held; states of zeros are left out.

    One with projections stays a call.
    """
    for op in list(graph):
        if op.kind in WEIGHT_LISTS:
            bound = call_arguments(op)
            layer = _layer(graph, op.kind, bound)
            if layer is not None:
                states = bound["hx"] if isinstance(bound["hx"], tuple) else (bound["hx"],)
                if all(graph[state.name].kind in _ZEROS for state in states):
                    states = ()
                op.kwargs = {}
                graph.set_layer(op.name, layer, _kind(op.kind))
                graph.set_inputs(op.name, (bound["input"], *states))


def _kind(call: str) -> str:
    return call.split(".")[1].partition("_")[0]


def _layer(graph: Graph, call: str, bound: dict[str, Any]) -> nn.Module | None:
    """The layer with the call's own tensors, so that a tied one stays tied."""
    weights = [_held(graph, ref) for ref in bound["params"]]
    attributes = _attributes(call, bound, weights)
    if attributes is None:
        return None
    layer = build_layer(_kind(call), attributes)
    blanks = layer_tensors(layer)
    if [blank.shape for _, blank in blanks] != [getattr(w, "shape", None) for w in weights]:
        return None
    for (slot, _), weight in zip(blanks, weights, strict=True):
        place_tensor(layer, slot, weight)  # type: ignore[arg-type]
    return layer


def _attributes(
    call: str, bound: dict[str, Any], weights: list[torch.Tensor | None]
) -> dict[str, Any] | None:
    first, second = weights[:2]
    if first is None or second is None:
        return None
    found = {
        "in": first.shape[1],
        "hidden": second.shape[1],
        "layers": bound["num_layers"],
        "biases": bound["has_biases"],
        "batch_first": bound["batch_first"],
        "dropout": float(bound["dropout"]),
        "bidirectional": bound["bidirectional"],
    }
    if call.startswith("aten.rnn"):
        found["nonlinearity"] = call.split(".")[1].partition("_")[2]
    return found


def _held(graph: Graph, ref: Any) -> torch.Tensor | None:
    op: Op | None = graph[ref.name] if isinstance(ref, Ref) else None
    return held_tensor(op) if op is not None and op.role == "tensor" else None
