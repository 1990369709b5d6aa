"""Running calibration data through a graph, and adding up what its layers are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from compressc.ir import Graph, Op, lower
from compressc.pipeline import Context
from compressc.tasks import task_of
from compressc.training.layer_inputs import Look, look_at_inputs
from compressc.training.layer_rows import input_rows
from compressc.training.least_squares import NormalEquations
from compressc_lowrank.matrices import matrix_of
from compressc_lowrank.seen import Seen

#: Samples that are run, at most, and so many at a time; samples whose tokens are counted.
SAMPLES, BATCH, COUNTED = 1024, 32, 1 << 16
#: Rows of a layer's input that count: at most so many, or so many for each of its columns.
ROWS, PER_COLUMN = 8192, 2
#: Columns of a moment, at most: in double precision it takes half a gigabyte then.
LARGEST = 8192
#: Bytes of moments that are held together, or one; where all take more, data go through again.
TOGETHER = 1 << 25

#: What an input is: the value that is read, and how a convolution moves over it.
_Key = tuple[Any, ...]


class Inputs:
    """What the layers of a graph are given on calibration data, collected when it is asked for.

    They are those of the graph as it is now: what a pass replaces later is not seen. Layers that
    read the same value share what is collected, in streams of batches, in double precision.

    Args:
        graph: its layers are held until this is let go.
        ops: the layers that will be asked for, in that order.
        ctx: of the pass; it has data.
    """

    def __init__(self, graph: Graph, ops: Sequence[Op], ctx: Context) -> None:
        self._module = lower(graph)
        self._ctx = ctx
        narrow = [op for op in ops if op.role == "embedding" or _columns(op) <= LARGEST]
        self._keys = {op.name: _key(op) for op in narrow}
        self._readers = {key: op for op in ops if (key := self._keys.get(op.name))}
        self._order = {op.name: i for i, op in enumerate(graph.inputs)}
        self._sums: dict[_Key, _Sum] = {}

    def of(self, op: Op, *, centred: bool) -> Seen | None:
        """What an op is given; None where it is nothing, not finite, or too wide to be added up.

        Args:
            op: one of those that were named.
            centred: moments are around the mean: for a layer with a bias that may take it up.
        """
        key = self._keys.get(op.name)
        if key is None:
            return None
        if key not in self._sums:
            self._sums = self._collected(key)
        return self._sums[key].seen(centred=centred)

    def _collected(self, first: _Key) -> dict[_Key, _Sum]:
        """The moments from one key on, as many as are held together."""
        sums: dict[_Key, _Sum] = {}
        keys = list(self._readers)
        held = 0
        for key in keys[keys.index(first) :]:
            columns = _columns(self._readers[key])
            held += 8 * columns * (1 if key[0] == "table" else columns)
            if sums and held > TOGETHER:
                break
            sums[key] = _Sum(columns, is_table=key[0] == "table")
        counted = {key for key in sums if key[0] == "table" and key[1] in self._order}
        if counted:
            self._count({key: sums[key] for key in counted})
        if counted != set(sums):
            self._run({key: sum_ for key, sum_ in sums.items() if key not in counted})
        return sums

    def _count(self, sums: Mapping[_Key, _Sum]) -> None:
        """What tables read off the inputs of the model: nothing has to run for that."""
        assert self._ctx.data is not None
        samples, task = self._ctx.data.calibration, task_of(self._ctx)
        for batch in islice(samples.batches(BATCH), -(-COUNTED // BATCH)):
            valid = task.valid(batch.inputs)
            for key, sum_ in sums.items():
                sum_.add(_looked_up(batch.inputs[self._order[key[1]]], valid))

    def _run(self, sums: Mapping[_Key, _Sum]) -> None:
        assert self._ctx.data is not None
        samples = self._ctx.data.calibration
        batches = -(-min(len(samples), SAMPLES) // BATCH)
        looks = {}
        for key, sum_ in sums.items():
            op = self._readers[key]
            most = -(-max(ROWS, PER_COLUMN * _columns(op)) // batches)
            looks[op.name] = _look(op, sum_, most)
        inputs = (batch.inputs for batch in islice(samples.batches(BATCH), batches))
        look_at_inputs(self._module, looks, inputs, batches, self._ctx)


class _Sum:
    """Rows, added up in double precision; of a table, how often each row was looked up."""

    def __init__(self, columns: int, *, is_table: bool) -> None:
        self.looks = torch.zeros(columns, dtype=torch.float64) if is_table else None
        self.rows = NormalEquations(0 if is_table else columns, 0)

    def add(self, rows: Tensor) -> None:
        """Rows `[n, columns]`, or the rows of a table that are looked up, `[n]`."""
        if self.looks is not None:
            self.looks += torch.bincount(rows, minlength=len(self.looks))
        else:
            self.rows.add(rows, rows[:, :0])

    def seen(self, *, centred: bool) -> Seen | None:
        """What there is to know of them, or nothing."""
        if self.looks is not None:
            return Seen(self.looks) if float(self.looks.sum()) else None
        if not self.rows.count:
            return None
        mean, second = self.rows.x / self.rows.count, self.rows.xx / self.rows.count
        # a constant input: by rounding, the variance is next to nothing, or below
        least = 1e-12 * float(second.diagonal().mean())
        if centred:
            second = second - torch.outer(mean, mean)
        if not least < float(second.diagonal().mean()) < float("inf"):
            return None
        return Seen(second, mean if centred else None)


def _look(op: Op, sum_: _Sum, most: int) -> Look:
    def look(x: Tensor, valid: Tensor | None) -> None:
        table = op.role == "embedding"
        sum_.add(_looked_up(x, valid) if table else input_rows(op, x, valid, most))

    return look


def _looked_up(ids: Tensor, valid: Tensor | None) -> Tensor:
    """The rows of a table that are read, without those of padding."""
    return ids[valid] if valid is not None and ids.shape == valid.shape else ids.flatten()


def _columns(op: Op) -> int:
    """Of the matrix whose rows a layer multiplies; rows of a table."""
    rows, columns = matrix_of(op.layer).shape
    return int(rows if op.role == "embedding" else columns)


def _key(op: Op) -> _Key:
    """Equal for layers that are given the same rows."""
    layer: Any = op.layer
    value = op.inputs[0]
    if op.role == "embedding":
        return "table", value, layer.num_embeddings
    if op.role in ("linear", "recurrent"):
        return "rows", value
    shape = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    return "patches", value, *map(str, shape)
