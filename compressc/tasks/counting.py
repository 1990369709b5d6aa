"""Accumulated scores of answers: classes, integers, yes and no.

Counts are kept, never outputs: a test set of any size takes the room of its classes.
"""

from __future__ import annotations

import math

import torch
import torchmetrics
from torch import Tensor

from compressc.data.checks import NO_LABEL
from compressc.tasks.answers import chosen
from compressc.tasks.response import Response, as_rows

#: Answers from here on are not counted one by one: ids may be any integer.
MOST_CLASSES = 1 << 20


class ClassCounts(torchmetrics.Metric):
    """Hits, wanted and given answers of each class.

    `update(output, wanted)` takes an output `[b, ...]` and labels i64 of its positions. A row with
    NaN is wrong.

    Args:
        response: what the output is.
        answers: whether what is wanted is another output of the same shape: what it chooses counts.

    Attributes:
        hits, wanted, given: i64[c], counts by class.
        right, total: counts of all labelled positions.
    """

    full_state_update = False
    hits: Tensor
    wanted: Tensor
    given: Tensor
    right: Tensor
    total: Tensor

    def __init__(self, response: Response, answers: bool = False) -> None:
        super().__init__(sync_on_compute=False)
        self.response, self.answers = response, answers
        for name in ("hits", "wanted", "given"):
            self.add_state(name, torch.zeros(0, dtype=torch.int64), "sum")
        for name in ("right", "total"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), "sum")

    def update(self, output: Tensor, wanted: Tensor) -> None:
        """Count a batch."""
        answers = chosen(self.response, output).cpu()
        labels = _labels(chosen(self.response, wanted) if self.answers else wanted)
        known = labels != NO_LABEL
        answers, labels = answers[known], labels[known]
        right = (answers == labels) & (answers >= 0)
        self.right += right.sum()
        self.total += len(labels)
        self.hits = _counted(self.hits, labels[right])
        self.wanted = _counted(self.wanted, labels)
        self.given = _counted(self.given, answers)

    def compute(self) -> dict[str, float]:
        """Shares in 0..1; NaN where nothing is labelled.

        Returns:
            accuracy: share of positions that are right.
            balanced_accuracy: mean of the share that is right, over the classes that are wanted.
            miou: mean of intersection over union, over the classes that are wanted or given.
        """
        hits, wanted, given = self._by_class()
        union = wanted + given - hits
        share = float(self.right) / float(self.total) if self.total else math.nan
        return {
            "accuracy": share,
            "agreement": share,
            "balanced_accuracy": _mean_ratio(hits, wanted),
            "miou": _mean_ratio(hits, union),
        }

    def constant(self) -> dict[str, float]:
        """What the best answer that is the same for every position would score."""
        if not self.total:
            return {}
        best, classes = float(self.wanted.max()) if len(self.wanted) else 0.0, self.wanted > 0
        count = max(int(classes.sum()), 1)
        share = best / float(self.total)
        return {
            "accuracy": share,
            "agreement": share,
            "balanced_accuracy": 1 / count,
            "miou": share / count,
        }

    def recalls(self) -> list[float | None]:
        """Share that is right of each class; None for one that is not wanted."""
        hits, wanted, _ = self._by_class()
        return [float(hit / all_) if all_ else None for hit, all_ in zip(hits, wanted, strict=True)]

    def _by_class(self) -> tuple[Tensor, Tensor, Tensor]:
        size = max(map(len, (self.hits, self.wanted, self.given)))
        hits, wanted, given = (_grown(x, size) for x in (self.hits, self.wanted, self.given))
        return hits.double(), wanted.double(), given.double()


class BitCounts(torchmetrics.Metric):
    """Answers of yes and no: how many are right, and how often each number is a yes.

    Arguments and `update(output, wanted)` as in `ClassCounts`.
    """

    full_state_update = False
    right: Tensor
    total: Tensor
    hits: Tensor
    said: Tensor
    ones: Tensor
    known: Tensor

    def __init__(self, response: Response, answers: bool = False) -> None:
        super().__init__(sync_on_compute=False)
        self.response, self.answers = response, answers
        for name in ("right", "total", "hits", "said"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), "sum")
        for name in ("ones", "known"):
            self.add_state(name, torch.zeros(0, dtype=torch.int64), "sum")

    def update(self, output: Tensor, wanted: Tensor) -> None:
        """Count a batch."""
        answers = chosen(self.response, output).cpu()
        labels = _labels(chosen(self.response, wanted) if self.answers else wanted)
        known = labels != NO_LABEL
        right = (answers == labels) & (answers >= 0) & known
        self.right += right.sum()
        self.total += known.sum()
        self.hits += (right & (labels == 1)).sum()
        self.said += ((answers == 1) & known).sum()
        yes, known = (
            as_rows(x.reshape(output.shape), self.response.dim).sum(0)
            for x in ((labels == 1) & known, known)
        )
        self.ones = yes if not len(self.ones) else self.ones + yes
        self.known = known if not len(self.known) else self.known + known

    def compute(self) -> dict[str, float]:
        """Shares in 0..1; NaN where nothing is labelled, or nothing is a yes."""
        share = float(self.right) / float(self.total) if self.total else math.nan
        yes = float(self.ones.sum() + self.said)
        f1 = 2 * float(self.hits) / yes if yes else math.nan
        return {"accuracy": share, "agreement": share, "f1": f1}

    def constant(self) -> dict[str, float]:
        """What the best answer that is the same for every sample would score."""
        if not self.total:
            return {}
        share = float(torch.maximum(self.ones, self.known - self.ones).sum()) / float(self.total)
        # yes to everything: every yes is found, at the precision of their share
        ones = float(self.ones.sum())
        all_yes = 2 * ones / (ones + float(self.known.sum()))
        return {"accuracy": share, "agreement": share, "f1": all_yes}


def _labels(wanted: Tensor) -> Tensor:
    return wanted.flatten().long().cpu()


def _counted(counts: Tensor, answers: Tensor) -> Tensor:
    answers = answers[(answers >= 0) & (answers < MOST_CLASSES)]
    return _sum(counts, torch.bincount(answers))


def _sum(a: Tensor, b: Tensor) -> Tensor:
    size = max(len(a), len(b))
    return _grown(a, size) + _grown(b, size)


def _grown(x: Tensor, size: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, size - len(x)))


def _mean_ratio(part: Tensor, whole: Tensor) -> float:
    there = whole > 0
    return float((part[there] / whole[there]).mean()) if bool(there.any()) else math.nan
