"""What goes with each index of a width: the weights of the layers that have it, index by index."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compressc.analysis import Axis, Coupling, Slot, Width
from compressc.analysis.axes import find
from compressc.importance import Member, Side
from compressc.ir import LAYERS, PRODUCTS, Graph, Op
from compressc_prune.measured import Measured


def members_of(
    graph: Graph, found: Coupling, width: Width, measured: Measured
) -> tuple[Member, ...]:
    """One member for each weight of a product or a norm, and each parameter multiplied with.

    Args:
        graph: the graph.
        found: its coupling.
        width: of that.
        measured: what the members are shown beside the weights.
    """
    makers = {name for name, _ in found.produced}
    made = []
    for slot in width.slots:
        side = _side(graph[slot.op], slot, makers)
        if side is not None:
            made.append(_member(graph[slot.op], slot, width, side, measured))
    return tuple(made)


def _side(op: Op, slot: Slot, makers: set[str]) -> Side | None:
    """What a tensor does with a width; None where it says nothing of its indices."""
    if op.kind == "parameter" and op.name in makers:
        return "multiplies"
    if op.role == "recurrent":
        if not slot.tensor.startswith("weight_"):
            return None
        return "reads" if slot.dim else "makes"
    if slot.tensor != "weight" or slot.dim >= len(LAYERS[op.kind].weight):
        return None
    if op.role in ("batch_norm", "layer_norm"):
        return "scales"
    if op.role in PRODUCTS:
        return "makes" if LAYERS[op.kind].weight[slot.dim] == "out" else "reads"
    return None


def _member(op: Op, slot: Slot, width: Width, side: Side, measured: Measured) -> Member:
    layer: Any = op.layer
    tensor = getattr(layer, slot.tensor)
    order = _order(slot.axis, width)

    def rows(of: Tensor | None) -> Tensor | None:
        """A tensor of the weight's shape by the indices of the width, f32[size, n]."""
        if of is None:
            return None
        picked = (
            of.detach().movedim(slot.dim, 0).flatten(1) if of.ndim > 1 else of.detach()[:, None]
        )
        return picked[order].reshape(width.size, -1).float()

    weights = rows(tensor)
    assert weights is not None
    seen = measured.inputs.get(op.name) if side == "reads" else None
    return Member(
        op.name,
        side,
        op.kind,
        weights,
        rows(measured.gradients.get(id(tensor))),
        rows(measured.squared_gradients.get(id(tensor))),
        None if seen is None else rows(along(seen, tensor, slot.dim)),
    )


def along(seen: Tensor, weight: Tensor, dim: int) -> Tensor:
    """What each weight is multiplied with, `f32[weight's shape]`, of f32[channels]."""
    if len(seen) != weight.shape[dim]:  # channels of several groups meet one weight
        seen = seen.reshape(-1, weight.shape[dim]).square().mean(0).sqrt()
    shape = [-1 if place == dim else 1 for place in range(weight.ndim)]
    return seen.reshape(shape).expand(weight.shape)


def _order(axis: Axis, width: Width) -> Tensor:
    """Indices of a dimension that has a width in it, those of the width's first index first."""
    inner = _walk(axis, width.axis)
    own = (inner >= 0).nonzero().flatten()
    return own[inner[own].argsort(stable=True)]


def _walk(axis: Axis, leaf: Axis) -> Tensor:
    """For each index of an axis, the index within the leaf, or -1 where it is not of the leaf."""
    root = find(axis)
    if root is leaf:
        return torch.arange(root.size)
    if not root.parts:
        return torch.full((root.size,), -1)
    if root.how == "concat":
        return torch.cat([_walk(part, leaf) for part in root.parts])
    out = torch.full((1,), -1)
    for part in root.parts:
        inner = _walk(part, leaf)
        out = torch.maximum(out[:, None], inner[None]).flatten()
    return out
