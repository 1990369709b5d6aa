"""What can be read off a teacher, to make samples of it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from compressc.errors import CompresscError
from compressc.ir import Graph, Op, TensorType
from compressc.tasks import Response, find_responses


def norms_of(graph: Graph) -> list[Op]:
    """Batch norms that remember statistics."""
    return [
        op
        for op in graph
        if isinstance(op.layer, _BatchNorm)
        and op.layer.running_mean is not None
        and op.layer.running_var is not None
    ]


def scores_of(graph: Graph) -> Response | None:
    """The first output of class scores, one row for each sample or more."""
    for response in find_responses(graph):
        if response.learned == "class_scores" and response.value_dim is not None:
            return response
    return None


def classes_of(graph: Graph) -> int:
    """Of that output; 0 where there is none, or their number is open."""
    response = scores_of(graph)
    if response is None or response.value_dim is None:
        return 0
    size = graph.type_of(response.value_in(graph)).shape[response.value_dim]
    return size if isinstance(size, int) else graph.widths.get(str(size), 0)


def shape_of(graph: Graph, who: str) -> tuple[int, ...]:
    """Of a sample that a synthesis, `who`, makes for a teacher.

    Raises:
        CompresscError: CC204 where there are several inputs, or one that is no floats of known
            sizes.
    """
    types = [op.type for op in graph.inputs]
    (first, *others) = types or [None]
    sizes = first.shape[1:] if isinstance(first, TensorType) else ()
    floats = isinstance(first, TensorType) and first.dtype.is_floating_point
    if others or not sizes or not floats or not all(isinstance(size, int) for size in sizes):
        raise CompresscError(
            "CC204",
            f"{who} makes one input of floats, whose sizes are known but for the batch",
            got=", ".join(f"{op.name}: {op.type}" for op in graph.inputs) or "no input",
            hint="give --data, with or without labels",
        )
    return tuple(int(size) for size in sizes)


def distance(norms: Sequence[Op], values: Sequence[Tensor]) -> Tensor:
    """How far the statistics of values are from those that batch norms remember; a scalar.

    Mean over norms of |mean - remembered| / |remembered deviation| and |variance - remembered| /
    |remembered|, lengths of vectors over the channels: equation 4 in units of the layer, so that
    wide layers and large values count no more than others.

    Args:
        norms: the batch norms.
        values: what each of them reads, `[n, c, ...]`.
    """
    total = values[0].new_zeros(())
    for op, value in zip(norms, values, strict=True):
        norm = op.layer
        assert isinstance(norm, _BatchNorm)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        rest = [dim for dim in range(value.ndim) if dim != 1]
        mean, var = value.mean(rest), value.var(rest, correction=0)
        unit = norm.running_var.sqrt().norm().clamp_min(norm.eps)
        off = (mean - norm.running_mean).norm() / unit
        total = total + off
        total = total + (var - norm.running_var).norm() / norm.running_var.norm().clamp_min(
            norm.eps
        )
    return total / len(norms)
