"""What importances read on calibration data: gradients, their squares, the size of inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from compressc.importance import Reading
from compressc.ir import PRODUCTS, Graph, Op, lower
from compressc.pipeline import Context, Samples
from compressc.pipeline.samples import Batch
from compressc.tasks import SettledTask, task_of

#: Samples that gradients are summed over at most, in batches; and one by one, for their squares.
SAMPLES, BATCH, SINGLE = 512, 64, 256


@dataclass
class Measured:
    """What was measured.

    Attributes:
        gradients: id of a tensor of the graph -> gradient of the task's loss, summed over batches.
        squared_gradients: likewise the mean over samples of the squared gradient.
        inputs: op -> root mean square of what a product reads, f32[channels].
    """

    gradients: dict[int, Tensor] = field(default_factory=dict)
    squared_gradients: dict[int, Tensor] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)


def measure(graph: Graph, readings: Iterable[Reading], ctx: Context) -> Measured:
    """What is asked for; nothing is left behind in the graph.

    Raises:
        CompresscError: CC105 where there are no data.
    """
    wanted, found = set(readings), Measured()
    if not wanted:
        return found
    samples = ctx.require_data(f"prune(importance) that reads {', '.join(sorted(wanted))}")
    if "gradients" in wanted:
        found.gradients = _gradients(graph, samples.calibration, ctx)
    if "squared gradients" in wanted:
        found.squared_gradients = _squared_gradients(graph, samples.calibration, ctx)
    if "inputs" in wanted:
        found.inputs = input_sizes(graph, samples.calibration, task_of(ctx))
    return found


def first_batches(samples: Samples, size: int, most: int) -> Iterator[Batch]:
    """Batches of the first samples, `most` at the most."""
    seen = 0
    for batch in samples.batches(size):
        yield batch
        seen += len(batch)
        if seen >= most:
            break


def _gradients(graph: Graph, samples: Samples, ctx: Context) -> dict[int, Tensor]:
    """Of the task's loss; without labels, of the model's answers."""
    loss, sums = _Loss(graph, task_of(ctx)), dict[int, Tensor]()
    for batch in first_batches(samples, BATCH, SAMPLES):
        for key, gradient in loss.gradients(batch):
            sums[key] = sums[key] + gradient if key in sums else gradient
    return sums


def _squared_gradients(graph: Graph, samples: Samples, ctx: Context) -> dict[int, Tensor]:
    """Sample by sample: the square of a sum would forget what cancels."""
    loss, sums, count = _Loss(graph, task_of(ctx)), dict[int, Tensor](), 0
    total = min(len(samples), SINGLE)
    for batch in first_batches(samples, 1, SINGLE):
        for key, gradient in loss.gradients(batch):
            square = gradient.square()
            sums[key] = sums[key].add_(square) if key in sums else square
        count += 1
        ctx.progress("squared gradients", count, total)
    return {key: square / max(1, count) for key, square in sums.items()}


class _Loss:
    """The task's loss of a graph, and its gradients by tensor."""

    def __init__(self, graph: Graph, task: SettledTask) -> None:
        self.task = task
        self.module = lower(graph, also=task.values_in(graph))
        self.tensors = [t for t in graph.tensors().values() if isinstance(t, nn.Parameter)]

    def gradients(self, batch: Batch) -> Iterator[tuple[int, Tensor]]:
        """(id of a parameter, gradient) of all that the loss depends on."""
        moved = [tensor for tensor in self.tensors if tensor.is_floating_point()]
        flags = [tensor.requires_grad for tensor in moved]
        try:
            for tensor in moved:  # a model that was frozen has gradients, too
                tensor.requires_grad_(True)
            with torch.enable_grad():
                _, values = self.module(*batch.inputs)
                loss = self.task.loss(values, self.task.targets(batch.inputs, batch.labels))
                found = torch.autograd.grad(loss, moved, allow_unused=True)
        finally:
            for tensor, flag in zip(moved, flags, strict=True):
                tensor.requires_grad_(flag)
        for tensor, gradient in zip(moved, found, strict=True):
            if gradient is not None:
                yield id(tensor), gradient


@torch.no_grad()
def input_sizes(graph: Graph, samples: Samples, task: SettledTask) -> dict[str, Tensor]:
    """Root mean square of every channel that a linear layer or a convolution reads."""
    products = [op for op in graph if op.role in PRODUCTS]
    names = list(dict.fromkeys(op.inputs[0] for op in products))
    module: fx.GraphModule = lower(graph, also=names)
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for batch in first_batches(samples, BATCH, SAMPLES):
        values = dict(zip(names, module(*batch.inputs)[1], strict=True))
        valid = task.valid(batch.inputs)
        for op in products:
            rows = channels_last(op, values[op.inputs[0]], valid).double().square()
            sums[op.name] = sums.get(op.name, 0) + rows.sum(0)
            counts[op.name] = counts.get(op.name, 0) + len(rows)
    return {name: (total / max(1, counts[name])).sqrt().float() for name, total in sums.items()}


def channels_last(op: Op, value: Tensor, valid: Tensor | None = None) -> Tensor:
    """What a product reads as rows, f32[n, channels]; padded positions are left out.

    Args:
        op: a linear layer or a convolution.
        value: its input.
        valid: which positions are no padding, bool[b, s].
    """
    layer: Any = op.layer
    if op.role == "linear":
        if valid is not None and value.ndim > 2 and value.shape[:2] == valid.shape:
            return value[valid].flatten(0, -2)
        return value.reshape(-1, value.shape[-1])
    channel = value.ndim - len(layer.kernel_size) - 1
    return value.movedim(channel, -1).flatten(0, -2)
