"""Second moments of what layers are given on calibration data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from compressc.ir import Graph, Op, lower
from compressc.pipeline import Context
from compressc.training.layer_inputs import Look, look_at_inputs
from compressc.training.layer_rows import input_pieces

#: Rows of a batch that count for a layer, at most.
_ROWS = 2048
#: Bytes of rows that are added up at once: those of a depthwise convolution have many columns.
_PIECE = 1 << 22
#: Bytes of moments that are held together, or one; data go through again for the others.
_TOGETHER = 1 << 26

Inputs = tuple[Tensor, ...]


def moments(
    graph: Graph, ops: Sequence[Op], batches: Sequence[Inputs], ctx: Context
) -> Iterator[tuple[list[Op], Tensor]]:
    """Layers that are given the same rows, with the second moments of these: f64[count, count].

    Of a convolution in groups f64[groups, count, count]: each is given channels of its own.

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
        sums = _collected(graph, [group[0] for group in now], batches, ctx)
        while sums:  # each is let go of before the next is taken in double precision
            yield now.pop(0), sums.pop(0).mean()


def _collected(
    graph: Graph, ops: Sequence[Op], batches: Sequence[Inputs], ctx: Context
) -> list[_Moments]:
    sums = [_Moments(_groups(op), inputs_of(op)) for op in ops]
    looks = {op.name: _adding(op, sum_) for op, sum_ in zip(ops, sums, strict=True)}
    look_at_inputs(lower(graph), looks, batches, len(batches), ctx)
    return sums


@dataclass
class _Moments:
    """Sums of products of the columns of rows `[n, groups * count]`, within each group.

    In single precision, which is far finer than the damping of whoever inverts them (1 %).
    """

    groups: int
    count: int
    rows: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.sum = torch.zeros(self.groups, self.count, self.count)

    def add(self, rows: Tensor) -> None:
        """Take in some rows."""
        self.rows += len(rows)
        wide = rows.float().reshape(len(rows), self.groups, self.count).transpose(0, 1)
        self.sum.baddbmm_(wide.transpose(1, 2), wide)

    def mean(self) -> Tensor:
        """The moments; without groups f64[count, count]."""
        found = self.sum.double() / max(1, self.rows)
        return found if self.groups > 1 else found[0]


def _adding(op: Op, sum_: _Moments) -> Look:
    def add(x: Tensor, valid: Tensor | None) -> None:
        for rows in input_pieces(op, x, valid, _ROWS, _PIECE):
            sum_.add(rows)

    return add


def inputs_of(op: Op) -> int:
    """How many numbers each output of a layer is made of, in its group."""
    layer: Any = op.layer
    shape = layer.weight.shape if op.weight_form is None else layer.weight_shape()
    return math.prod(shape[1:])


def _groups(op: Op) -> int:
    return int(getattr(op.layer, "groups", 1))


def _bytes(group: Sequence[Op]) -> int:
    return 4 * _groups(group[0]) * inputs_of(group[0]) ** 2


def _rows_of(op: Op) -> tuple[Any, ...]:
    """Equal for layers that are given the same rows."""
    layer: Any = op.layer
    if op.role == "linear":
        return op.inputs[0], "linear"
    window = (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups)
    return op.inputs[0], *map(str, window)
