"""Second moments of what layers are given on calibration data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from compressc.ir import Graph, Op, lower
from compressc.pipeline import Context
from compressc.training.layer_inputs import Look, look_at_inputs
from compressc.training.layer_rows import input_rows
from compressc.training.least_squares import NormalEquations

#: Rows of a batch that count for a layer, at most.
_ROWS = 2048
#: Bytes of moments that are held together, or one; data go through again for the others.
_TOGETHER = 1 << 27

Inputs = tuple[Tensor, ...]


def moments(
    graph: Graph, ops: Sequence[Op], batches: Sequence[Inputs], ctx: Context
) -> Iterator[tuple[list[Op], Tensor]]:
    """Layers that are given the same rows, with the second moments of these: f64[count, count].

    In the order of the graph, some at a time: layers that have been rounded by then are run
    rounded, so that those behind them take their errors in.

    Args:
        graph: may be edited between two results.
        ops: linear layers and convolutions.
        batches: inputs of the model.
        ctx: of the pass.
    """
    groups: dict[tuple[Any, ...], list[Op]] = {}
    for op in ops:
        groups.setdefault(_rows_of(op), []).append(op)
    waiting = list(groups.values())
    while waiting:
        now = [waiting.pop(0)]
        held = _bytes(now[0])
        while waiting and held + _bytes(waiting[0]) <= _TOGETHER:
            held += _bytes(waiting[0])
            now.append(waiting.pop(0))
        found = _collected(graph, [group[0] for group in now], batches, ctx)
        yield from zip(now, found, strict=True)


def _collected(
    graph: Graph, ops: Sequence[Op], batches: Sequence[Inputs], ctx: Context
) -> list[Tensor]:
    sums = [NormalEquations(_count(op), 0) for op in ops]
    looks = {op.name: _adding(op, sum_) for op, sum_ in zip(ops, sums, strict=True)}
    look_at_inputs(lower(graph), looks, batches, len(batches), ctx)
    return [sum_.xx / max(1, sum_.count) for sum_ in sums]


def _adding(op: Op, sum_: NormalEquations) -> Look:
    def add(x: Tensor, valid: Tensor | None) -> None:
        rows = input_rows(op, x, valid, _ROWS)
        sum_.add(rows, rows[:, :0])

    return add


def _count(op: Op) -> int:
    layer: Any = op.layer
    return int(layer.weight[0].numel())


def _bytes(group: Sequence[Op]) -> int:
    return 8 * _count(group[0]) ** 2


def _rows_of(op: Op) -> tuple[Any, ...]:
    """Equal for layers that are given the same rows."""
    layer: Any = op.layer
    if op.role == "linear":
        return op.inputs[0], "linear"
    window = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
    return op.inputs[0], *map(str, window)
