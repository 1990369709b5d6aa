"""What rounding costs: the score of the task, or how far outputs go from the teacher's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from compressc.distillation import hold_out
from compressc.ir import Graph, lower
from compressc.pipeline import Batch, Context, Samples
from compressc.tasks import Metric, Scoring, task_of

#: Samples that run together.
_TOGETHER = 32
#: Bytes of outputs that are kept to be held against; fewer samples are taken where it takes more.
_KEPT = 1 << 26
#: Samples that tell how large outputs are.
_FEW = 2
#: Fewer samples than this have no variance to speak of: errors are held against mean squares.
_MANY = 8
#: A number that varies by less than this share of its square is a constant.
_CONSTANT = 1e-10
#: Shares of the training part that are held out where the data have no part to choose by.
_LEAST_SHARE, _MOST_SHARE = 0.1, 0.2

Outputs = list[Tensor]


def held_out(ctx: Context, name: str, wanted: int) -> tuple[Samples, Samples]:
    """What may be trained on, and so many other samples that choices are made by.

    Args:
        ctx: has the data.
        name: of the pass, for the error.
        wanted: samples to choose by; there may be fewer.

    Raises:
        CompresscError: CC105 without data.
    """
    data = ctx.require_data(name)
    if data.validation is not None:
        return data.train, spread(data.validation, wanted)
    share = min(max(wanted / max(len(data.train), 1), _LEAST_SHARE), _MOST_SHARE)
    train, held = hold_out(data.train, share, ctx.seed)
    return train, spread(held, wanted)


def spread(samples: Samples, most: int) -> Samples:
    """So many, evenly spread: a file may be sorted by class."""
    count = min(len(samples), most)
    return samples.subset(torch.arange(count) * len(samples) // max(count, 1))


def lost_share(got: Sequence[Outputs], want: Sequence[Outputs], which: Sequence[int]) -> float:
    """The share of what outputs say that is gone, each number by itself: 0 none, 1 all.

    For each number of an output its squared error over its variance from sample to sample, 1 at
    most; the mean over all numbers, of the output that lost most. Boxes in pixels do not hide what
    becomes of the scores beside them.

    Args:
        got, want: outputs `[b, ...]` of each batch.
        which: places of the outputs to look at.
    """
    return max([0.0, *(_lost_of([x[i] for x in got], [x[i] for x in want]) for i in which)])


def _lost_of(got: Sequence[Tensor], want: Sequence[Tensor]) -> float:
    """Of one output; batches of one length are looked at together."""
    lots: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
    for a, b in zip(got, want, strict=True):
        if b.is_floating_point() and b.dim() and b.numel():
            lots.setdefault(b.shape[1:], []).append((a, b))
    found, total = 0.0, 0
    for pairs in lots.values():
        a, b = (torch.cat(side).flatten(1).double() for side in zip(*pairs, strict=True))
        found, total = found + _lost(a, b) * len(b), total + len(b)
    return found / max(total, 1)


def _lost(got: Tensor, want: Tensor) -> float:
    same = got == want
    error = torch.where(same, 0.0, got - want).square().mean(0)
    want = torch.where(want.isfinite(), want, 0.0)
    size = want.square().mean(0)
    unit = want.var(0, correction=0) if len(want) >= _MANY else size
    counts = unit > _CONSTANT * size
    if not bool(counts.any()):
        return 0.0 if bool(same.all()) else 1.0
    return float((error[counts] / unit[counts]).nan_to_num(1.0, 1.0).clamp(max=1.0).mean())


@dataclass
class Losses:
    """Holds quantized graphs against the float one they were made from, and the teacher.

    Attributes:
        before: the float graph, not kept: its outputs are.
        ctx: of the pass.
        samples: that no graph was trained on.
    """

    before: Graph
    ctx: Context
    samples: Samples
    runs: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.task = task_of(self.ctx)
        self._batches = list(self._fitting())
        teacher = lower(self.ctx.teacher)
        self._theirs = self._outputs(teacher, self._batches)
        self._ours = self._outputs(lower(self.before), self._batches)
        self._score_before = self._score(self._ours)
        del self.before

    @property
    def count(self) -> int:
        """Samples that scores are of."""
        return sum(map(len, self._batches))

    @cached_property
    def metric(self) -> Metric | None:
        """The score that may drop; None where there are no labels to score by."""
        first = Scoring(self.task).metrics[0]
        return first if self.task.labels and first.against == "labels" else None

    @property
    def title(self) -> str:
        """What is lost, in words."""
        if self.metric is None:
            return "share of the teacher's outputs"
        share = "" if self.metric.drop == "points" else ", as a share of it"
        return f"{self.metric.title}{share}"

    def drop(self, graph: Graph) -> float:
        """How much worse than before: of the score by labels, and of outputs that no label is for.

        Without labels, how much more of the teacher's outputs is lost; see `lost_share`.
        """
        outputs = self._outputs(lower(graph), self._batches)
        self.runs += 1
        leaves = range(len(self._leaves(outputs[0])))
        scored: list[float] = []
        beside = list(leaves)
        if self.metric is not None:
            scored = [self.metric.lost(self._score_before, self._score(outputs))]
            beside = [i for i in leaves if i != self.task.index] if self.task.by_rows else []
        ours, theirs, new = map(self._flat, (self._ours, self._theirs, outputs))
        known = lost_share(ours, theirs, beside)
        return max([*scored, lost_share(new, theirs, beside) - known])

    def error(self, graph: Graph, most: int) -> float:
        """Share of all outputs that is lost beside those before, on the first `most` samples."""
        batches = self._batches[: max(1, most // _TOGETHER)]
        found = self._flat(self._outputs(lower(graph), batches))
        want = self._flat(self._ours[: len(batches)])
        return lost_share(found, want, range(len(want[0])))

    def _outputs(self, module: fx.GraphModule, batches: Sequence[Batch]) -> list[object]:
        with torch.no_grad():
            return [module(*batch.inputs) for batch in batches]

    def _flat(self, outputs: Sequence[object]) -> list[Outputs]:
        return [self._leaves(x) for x in outputs]

    def _leaves(self, returned: object) -> Outputs:
        return [x for x in pytree.tree_leaves(returned) if isinstance(x, Tensor)]

    def _score(self, outputs: Sequence[object]) -> float | None:
        if self.metric is None:
            return None
        scoring, read = Scoring(self.task), self.task.outputs
        for batch, ours, theirs in zip(self._batches, outputs, self._theirs, strict=True):
            targets = self.task.targets(batch.inputs, batch.labels)
            scoring.update(read(ours), targets, read(theirs))
        return scoring.values().get(self.metric.name, math.nan)

    def _fitting(self) -> Iterator[Batch]:
        """As many samples as there is room for their outputs."""
        few = self.samples.take(_FEW)
        (returned,) = self._outputs(lower(self.ctx.teacher), [few])
        size = sum(x.nbytes for x in self._leaves(returned)) / max(len(few), 1)
        count = int(min(len(self.samples), max(_FEW, _KEPT // max(size, 1))))
        return spread(self.samples, count).batches(_TOGETHER)
