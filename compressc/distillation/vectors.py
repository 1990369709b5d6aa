"""One vector for each sample: what relations between samples are taken of."""

from __future__ import annotations

from torch import Tensor

from compressc.ir import Graph
from compressc.tasks import SettledTask


def vector_in(graph: Graph, task: SettledTask) -> str:
    """Name of the value that says most of a sample as a whole.

    An embedding itself; of all else what the last layer with weights reads, which is what the
    papers take: class scores say little more than which class it is.
    """
    name = task.value_in(graph)
    if task.judged.learned == "embedding":
        return name
    op = graph[name]
    while op.layer is None or not any(True for _ in op.layer.parameters()):
        if not op.inputs or (op.move is None and op.role is None):
            return name
        op = graph[op.inputs[0]]
    return op.inputs[0]


def one_each(value: Tensor, valid: Tensor | None) -> Tensor:
    """A value `[b, ...]` as vectors `[b, d]`.

    Args:
        value: a vector as it is; of a map `[b, c, h, w]` the mean over pixels; of a sequence
            `[b, s, d]` the mean over positions; all numbers of anything else.
        valid: which positions count, bool `[b, s]`; None for all.
    """
    if value.ndim == 4:
        return value.mean((2, 3))
    if value.ndim != 3:
        return value.flatten(1)
    if valid is None or valid.shape != value.shape[:2]:
        return value.mean(1)
    kept = value.masked_fill(~valid[..., None], 0.0)  # padding may hold anything
    return kept.sum(1) / valid.sum(1, keepdim=True).clamp_min(1)
