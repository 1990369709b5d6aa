"""Cutting widths: slice every tensor of those chosen, and let the graph follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from compressc.analysis import Axis, Coupling, kept_indices
from compressc.analysis.axes import leaves
from compressc.ir import Graph, TensorType, fit_attributes, retype


def cut_widths(graph: Graph, found: Coupling, kept: Mapping[Axis, torch.Tensor]) -> None:
    """Keep the given indices of some widths; tensors, attributes, sizes, types and lineage follow.

    Args:
        graph: edited in place.
        found: the coupling of this very graph.
        kept: representative leaf axis -> ascending indices i64[k] that stay.
    """
    _slice_tensors(graph, found, kept)
    for leaf, name in found.symbols.items():
        if leaf in kept:
            graph.set_width(name, len(kept[leaf]))
    _record_lineage(graph, found, kept)
    retype(graph)


def _slice_tensors(graph: Graph, found: Coupling, kept: Mapping[Axis, torch.Tensor]) -> None:
    sliced: dict[int, torch.Tensor] = {}
    places: dict[tuple[str, str], dict[int, torch.Tensor]] = {}
    for slot in found.slots:
        if any(leaf in kept for leaf in leaves(slot.axis)):
            places.setdefault((slot.op, slot.tensor), {})[slot.dim] = kept_indices(slot.axis, kept)
    for (name, local), dims in places.items():
        layer: Any = graph[name].layer
        table = layer._parameters if local in layer._parameters else layer._buffers
        tensor = table[local]
        if id(tensor) not in sliced:  # a tied tensor is sliced once and stays tied
            sliced[id(tensor)] = _sliced(tensor, dims)
        table[local] = sliced[id(tensor)]
    for name, axis in found.groups:
        graph[name].layer.groups = len(kept_indices(axis, kept))  # type: ignore[union-attr]
    for name in dict.fromkeys(name for name, _ in places):
        op = graph[name]
        assert op.layer is not None
        fit_attributes(op.kind, op.layer)
        graph.set_layer(name, op.layer)


def _sliced(tensor: torch.Tensor, dims: Mapping[int, torch.Tensor]) -> torch.Tensor:
    out = tensor.detach()
    for dim, indices in dims.items():
        out = out.index_select(dim, indices)
    out = out.contiguous()
    return nn.Parameter(out, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else out


def _record_lineage(graph: Graph, found: Coupling, kept: Mapping[Axis, torch.Tensor]) -> None:
    """Every value knows which teacher channels its own channels are.

    A dimension with an open part (batch times heads) has no indices to tell until it runs.
    """
    for op in graph:
        if isinstance(op.type, TensorType):
            dims = zip(op.type.shape, found.values[op.name], strict=True)
            for dim, (size, axis) in enumerate(dims):
                if isinstance(size, int) and any(leaf in kept for leaf in leaves(axis)):
                    graph.narrow(op.name, dim, kept_indices(axis, kept).tolist())
