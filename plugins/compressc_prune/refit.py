"""Refitting: after a cut, what reads the cut width is fitted anew to what it used to give.

A layer whose inputs are gone can make up for much of them from those that are left. The weights
that do it best are those of a linear least squares problem on calibration data, layer by layer in
the order in which they compute, each by what it is really given by then. Sources: He et al. 2017
(channel pruning, arXiv 1707.06168, section 3.1, "reconstruction"; the targets are those of the
uncut net and the inputs those of the cut one, as in its section 3.2), here with a ridge around the
weights that are there.

Gently is how it is done where nobody asks: behind a ridge of ten times the mean square of a column
only directions that carry far more than the others are mended. Weights stay about as large as they
were, and a training starts better from them; from those that fit best it may end worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compressc.analysis import Axis, Coupling, kept_indices, peak_memory, sizes_of
from compressc.analysis.axes import leaves
from compressc.collecting import freed_at_once
from compressc.ir import Graph, Op
from compressc.ir.ops import Ref
from compressc.pipeline import Context
from compressc.tasks import task_of
from compressc.training.layer_rows import input_rows, output_rows
from compressc.training.least_squares import RIDGES, Fit, NormalEquations, fit
from compressc.training.lockstep import Lockstep

#: Samples at most, and in a batch.
SAMPLES, BATCH = 512, 32
#: Bytes of values that both runs may hold at a time: with larger ones fewer samples are taken.
HELD = 1 << 30
#: One of so many samples is held out, to choose the ridge by.
HELD_OUT = 4

Kept = Mapping[Axis, Tensor]


@dataclass(frozen=True)
class Cut:
    """What was cut.

    Attributes:
        uncut: the graph before.
        found: its coupling.
        kept: leaf axis of each width that was cut -> the indices that are left.
    """

    uncut: Graph
    found: Coupling
    kept: Kept


@dataclass(frozen=True)
class Manner:
    """How hard to try.

    Attributes:
        ridges: to choose from, as shares of the mean square of a column.
        rows, per_column: of a layer at most so many, or so many for each of its columns.
        largest: columns at most; equations of 8192 take half a gigabyte.
    """

    ridges: tuple[float, ...]
    rows: int
    per_column: int
    largest: int


FULLY = Manner(RIDGES, rows=16384, per_column=8, largest=8192)
GENTLY = Manner((10.0, 100.0), rows=4096, per_column=2, largest=2304)


def readers(graph: Graph, found: Coupling, kept: Kept) -> list[str]:
    """The products that read a cut width, in order."""
    cut = {
        slot.op
        for slot in found.slots
        if slot.tensor == "weight"
        and _reads(graph[slot.op], slot.dim)
        and any(leaf in kept for leaf in leaves(slot.axis))
    }
    return [op.name for op in graph if op.name in cut]


def _reads(op: Op, dim: int) -> bool:
    if op.role == "transposed_convolution":
        return dim == 0
    return op.role in ("linear", "convolution") and dim == 1


@dataclass(frozen=True)
class Refitted:
    """What was made of a layer: `before`, `after` and `ridge` as `Fit` has them."""

    op: str
    before: float
    after: float
    ridge: float | None


@freed_at_once()  # sums of one layer are not those of the next
def refit(graph: Graph, cut: Cut, ctx: Context, manner: Manner) -> list[Refitted]:
    """Fit all readers of cut widths anew; weights that would be worse on samples held out stay.

    Args:
        graph: after the cut; edited in place, with notes.
        cut: that cut.
        ctx: of the pass; has data.
        manner: how hard to try.
    """
    names = [
        name for name in readers(cut.uncut, cut.found, cut.kept) if _can(graph, name, ctx, manner)
    ]
    if not names:
        return []
    batches, valid = _batches(cut.uncut, ctx)
    runs = Lockstep(graph, batches), Lockstep(cut.uncut, batches)
    done = []
    for number, name in enumerate(names):
        ctx.progress("refitting layers", number, len(names))
        made = _Layer(graph, cut, name, manner).refit(runs, valid)
        if made is None:
            ctx.note(name, "not refitted: too few samples, or what it reads is not finite")
        else:
            done.append(made)
    _tell(done, sum(len(inputs[0]) for inputs in batches), ctx)
    return done


def _tell(done: Sequence[Refitted], samples: int, ctx: Context) -> None:
    for made in done:
        text = f"error of its output {made.before:.3g} -> {made.after:.3g}"
        if made.ridge is None:
            text = f"a new mean alone, error of its output {made.after:.3g}"
        ctx.note(made.op, f"refitted on {samples} samples: {text}")
    ctx.record(
        "refit",
        {r.op: {"before": r.before, "after": r.after, "ridge": r.ridge} for r in done},
    )


def _can(graph: Graph, name: str, ctx: Context, manner: Manner) -> bool:
    layer: Any = graph[name].layer
    if graph[name].role == "transposed_convolution":
        ctx.note(name, "not refitted: a transposed convolution")
        return False
    if len(graph.holders(layer.weight)) > 1:
        ctx.note(name, "not refitted: another layer has the same weight")
        return False
    if layer.weight[0].numel() > manner.largest:
        ctx.note(name, f"not refitted: more than {manner.largest} columns")
        return False
    if layer.weight.dtype not in (torch.float32, torch.float64):
        ctx.note(name, f"not refitted: its weights are {layer.weight.dtype}")
        return False
    return True


def _batches(graph: Graph, ctx: Context) -> tuple[list[tuple[Tensor, ...]], list[Tensor | None]]:
    """Inputs of some samples, and which positions of each batch are no padding."""
    samples = ctx.require_data("prune(refit=true)").calibration
    task = task_of(ctx)
    first = next(iter(samples.batches(BATCH)))
    sizes = sizes_of(graph, first.inputs)
    held = 2 * peak_memory(graph, **sizes).bytes / len(first)
    count = max(BATCH, min(SAMPLES, int(HELD / max(1.0, held))))
    found = []
    for batch in samples.batches(BATCH):
        found.append(tuple(batch.inputs))
        count -= len(batch)
        if count <= 0:
            break
    return found, [task.valid(inputs) for inputs in found]


class _Layer:
    """One layer that reads a cut width.

    Args:
        graph: after the cut.
        cut: that cut.
        name: of the layer.
        manner: how hard to try.
    """

    def __init__(self, graph: Graph, cut: Cut, name: str, manner: Manner) -> None:
        self.graph, self.op, self.manner = graph, graph[name], manner
        layer: Any = self.op.layer
        self.layer = layer
        values = cut.found.values[name]
        self.channel = len(values) - 1
        if self.op.role == "convolution":
            self.channel -= len(layer.kernel_size)
        self.out = kept_indices(values[self.channel], cut.kept)
        self.beside = _added(graph, self.op)
        self.norms = _norms(graph, self.op)

    def refit(
        self, runs: tuple[Lockstep, Lockstep], valid: Sequence[Tensor | None]
    ) -> Refitted | None:
        """Fit and write it; None where there is nothing to fit to."""
        cut, uncut = runs
        cut.before(self.op.name)
        uncut.through(self.op.name)
        groups = getattr(self.layer, "groups", 1)
        weight = self.layer.weight.detach().double().flatten(1)
        sums = [_Sums(weight.shape[1], len(weight) // groups) for _ in range(groups)]
        rows = max(self.manner.rows, self.manner.per_column * weight.shape[1])
        most = rows // max(1, len(valid)) + 1
        for batch, mask in enumerate(valid):
            x, y = cut.value(self.op.inputs[0], batch), self._target(cut, uncut, batch)
            own = mask if mask is not None and len(mask) == len(x) else None
            for place, held in _parts(len(x)):
                rest = None if own is None else own[place]
                given = input_rows(self.op, x[place], rest, most)
                wanted = output_rows(self.op, y[place], rest, most)
                for sum_, a, b in zip(
                    sums, given.chunk(groups, 1), wanted.chunk(groups, 1), strict=True
                ):
                    sum_.of(held).add(a, b)
        return self._write(sums, weight) if all(sum_.usable for sum_ in sums) else None

    def _target(self, cut: Lockstep, uncut: Lockstep, batch: int) -> Tensor:
        """What the layer gave in the uncut net; what a sum behind it lacks by now, besides.

        In a residual stream each layer can make up for what those before it lost.
        """
        wanted: Tensor = uncut.value(self.op.name, batch)
        other = self.beside
        if other and cut.has(other) and uncut.has(other):
            wanted = wanted + uncut.value(other, batch)
            lacking: Tensor = cut.value(other, batch)
            return wanted.index_select(self.channel, self.out) - lacking
        return wanted.index_select(self.channel, self.out)

    def _write(self, sums: Sequence[_Sums], weight: Tensor) -> Refitted:
        """Fit each group of channels, and give the layer what comes of it."""
        bias = self.layer.bias is not None
        fits = [
            fit(
                sum_.learned,
                sum_.held,
                near,
                intercept=bias or bool(self.norms),
                ridges=self.manner.ridges,
            )
            for sum_, near in zip(sums, weight.chunk(len(sums)), strict=True)
        ]
        made = _merged(fits)
        old = self.layer.weight
        shaped = made.weight.reshape(old.shape).to(old.dtype)
        self.layer.weight = nn.Parameter(shaped, old.requires_grad)
        shift = made.intercept.to(old.dtype)
        if bias:
            self.layer.bias = nn.Parameter(shift, self.layer.bias.requires_grad)
        self.graph.set_layer(self.op.name, self.layer)
        for norm in self.norms if not bias else ():
            layer: Any = self.graph[norm].layer
            layer.running_mean = layer.running_mean - shift  # it takes the mean off anyway
            self.graph.set_layer(norm, layer)
        return Refitted(self.op.name, made.before, made.after, made.ridge)


class _Sums:
    """The equations of one group of channels: to learn by, and to choose the ridge by."""

    def __init__(self, columns: int, targets: int) -> None:
        self.learned, self.held = (NormalEquations(columns, targets) for _ in range(2))

    def of(self, held: bool) -> NormalEquations:
        """Those that rows go to."""
        return self.held if held else self.learned

    @property
    def usable(self) -> bool:
        """Whether there are rows of both kinds, all of them finite."""
        both = (self.learned, self.held)
        return all(n.count and torch.isfinite(n.xx.sum() + n.xy.sum() + n.yy) for n in both)


def _parts(count: int) -> list[tuple[Tensor, bool]]:
    """Positions of samples to learn by, and of those held out."""
    held = torch.arange(count) % HELD_OUT == HELD_OUT - 1
    return [(torch.nonzero(rows).flatten(), out) for rows, out in ((~held, False), (held, True))]


def _merged(fits: Sequence[Fit]) -> Fit:
    """One fit of those of all groups; ridge and errors are means."""
    if len(fits) == 1:
        return fits[0]
    ridges = [f.ridge for f in fits if f.ridge is not None]
    count = len(fits)
    return Fit(
        torch.cat([f.weight for f in fits]),
        torch.cat([f.intercept for f in fits]),
        sum(ridges) / len(ridges) if ridges else None,
        sum(f.before for f in fits) / count,
        sum(f.after for f in fits) / count,
    )


def _added(graph: Graph, op: Op) -> str:
    """What the value of an op is added to, where that is all that becomes of it; else nothing."""
    users = graph.users(op.name)
    if len(users) != 1 or users[0].kind != "aten.add.Tensor" or users[0].kwargs:
        return ""
    refs = [arg.name for arg in users[0].args if isinstance(arg, Ref)]
    others = [name for name in refs if name != op.name]
    same = len(refs) == 2 and len(others) == 1 and graph[others[0]].type == op.type
    return others[0] if same else ""


def _norms(graph: Graph, op: Op) -> list[str]:
    """The batch norms that are all that reads an op: they can take up a constant."""
    users = graph.users(op.name)
    if op.name in graph.output_names or any(user.role != "batch_norm" for user in users):
        return []
    return [user.name for user in users if getattr(user.layer, "running_mean", None) is not None]
