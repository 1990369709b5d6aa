"""Scores for the indices of a width, by torch-pruning's importance criteria.

torch-pruning scores a `Group`: a list of (layer, dimension, indices) that are cut together. Its own
tracing gives wrong groups where attention reshapes a fused qkv, so the groups are built here from
the IR's coupling, and the criteria see the right indices.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
import torch_pruning as tp
from torch import nn
from torch_pruning.dependency.dependency import Dependency
from torch_pruning.dependency.group import Group
from torch_pruning.dependency.node import Node

from compressc.analysis import Axis, Coupling, Slot, Width
from compressc.analysis.axes import find
from compressc.ir import LAYERS, Graph, Op, Role, lower
from compressc.pipeline import Context
from compressc.tasks import task_of

#: Gradients for `taylor` are summed over this many samples, in batches.
_TAYLOR_SAMPLES, _TAYLOR_BATCH = 512, 64


class Scorer:
    """Scores widths of one graph.

    Args:
        graph: the graph to be pruned.
        found: its coupling.
        criterion: `magnitude` (Li et al. 2017) or `taylor` (Molchanov et al. 2019).
        ctx: gives the calibration data that `taylor` needs.
    """

    def __init__(self, graph: Graph, found: Coupling, criterion: str, ctx: Context) -> None:
        self.graph, self.found = graph, found
        self.criterion: Any = (
            tp.importance.GroupTaylorImportance(normalizer=None)
            if criterion == "taylor"
            else tp.importance.GroupMagnitudeImportance(p=2, normalizer=None)
        )
        makers = {name for name, _ in found.produced}
        self.multiplied = {name for name in makers if graph[name].kind == "parameter"}
        self.reads_gradients = criterion == "taylor"
        if self.reads_gradients:
            _accumulate_gradients(graph, ctx)

    def score_all(self, widths: Iterable[Width]) -> dict[Width, torch.Tensor]:
        """The score of each width; the gradients that it took are dropped."""
        scores = {width: self.score(width) for width in widths}
        for tensor in self.graph.tensors().values():
            tensor.grad = None
        return scores

    def score(self, width: Width) -> torch.Tensor:
        """Importance f32[width.size], scaled to mean 1 so that widths can be compared."""
        group = Group()
        for slot in width.slots:
            op, place = self._weight_of(slot)
            layer: Any = op.layer
            item = _group_item(op, place)
            if item is not None and not (self.reads_gradients and layer.weight.grad is None):
                indices, positions = _positions(slot.axis, width.axis)
                group.add_dep(item, indices.tolist())
                group.items[-1].root_idxs = positions.tolist()
        score = self.criterion(group)
        if score is None:
            return torch.ones(width.size)
        scores: torch.Tensor = score[: width.size].float().abs()
        return scores / scores.mean().clamp_min(1e-12)

    def _weight_of(self, slot: Slot) -> tuple[Op, Slot]:
        """The layer of a slot; a parameter that values are multiplied with counts as a linear one.

        Its rows are the indices of the dimension.
        """
        op = self.graph[slot.op]
        if op.name not in self.multiplied:
            return op, slot
        layer: Any = op.layer
        linear = replace(op, kind="linear", layer=_as_linear(layer.value, slot.dim))
        return linear, replace(slot, tensor="weight", dim=0)


def _as_linear(value: torch.Tensor, dim: int) -> nn.Linear:
    """A linear layer with a row of weights for each index of a dimension."""
    linear = nn.Linear(1, 1, bias=False, device="meta")
    linear.weight = nn.Parameter(_rows(value, dim))
    linear.weight.grad = None if value.grad is None else _rows(value.grad, dim)
    return linear


def _rows(value: torch.Tensor, dim: int) -> torch.Tensor:
    return value.detach().movedim(dim, 0).reshape(value.shape[dim], -1)


#: Role of a layer and what a dimension of its weight is -> the pruning function for it.
_FUNCTIONS: dict[tuple[Role | None, str], Any] = {
    ("linear", "out"): tp.prune_linear_out_channels,
    ("linear", "in"): tp.prune_linear_in_channels,
    ("convolution", "out"): tp.prune_conv_out_channels,
    ("convolution", "in"): tp.prune_conv_in_channels,
    ("transposed_convolution", "out"): tp.prune_conv_out_channels,
    ("transposed_convolution", "in"): tp.prune_conv_in_channels,
    ("batch_norm", "features"): tp.prune_batchnorm_out_channels,
    ("layer_norm", "shape"): tp.prune_layernorm_out_channels,
}


def _group_item(op: Op, slot: Slot) -> Dependency | None:
    """The pruning function of torch-pruning that stands for a dimension of a layer's weight."""
    if slot.tensor != "weight" or slot.dim >= len(LAYERS[op.kind].weight):
        return None
    dimension = LAYERS[op.kind].weight[slot.dim]
    if dimension == "in" and getattr(op.layer, "groups", 1) > 1:
        return None
    function = _FUNCTIONS.get((op.role, dimension))
    if function is None or not hasattr(op.layer, "bias"):  # the criteria read one: no RMS norm
        return None
    node = Node(op.layer, None, slot.op)
    return Dependency(function, function, node, node)


def _positions(axis: Axis, leaf: Axis) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of a dimension that belong to a leaf axis, and their index within the leaf."""
    root = find(axis)
    if root is leaf:
        return torch.arange(root.size), torch.arange(root.size)
    found = _walk(root, leaf)
    indices = (found >= 0).nonzero().flatten()
    return indices, found[indices]


def _walk(axis: Axis, leaf: Axis) -> torch.Tensor:
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


def _accumulate_gradients(graph: Graph, ctx: Context) -> None:
    """Gradients of the task's loss on calibration data; without labels, of the model's answers."""
    samples = ctx.require_data("prune(importance=taylor)").calibration
    task = task_of(ctx)
    module = lower(graph, also=task.values_in(graph))
    module.zero_grad()
    seen = 0
    for batch in samples.batches(_TAYLOR_BATCH):
        _, values = module(*batch.inputs)
        loss = task.loss(values, task.targets(batch.inputs, batch.labels))
        loss.backward()  # type: ignore[no-untyped-call]
        seen += len(batch)
        if seen >= _TAYLOR_SAMPLES:
            break
