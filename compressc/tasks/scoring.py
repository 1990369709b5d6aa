"""Scores of one model over a whole split, accumulated batch by batch; no outputs are kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from compressc.errors import CompresscError
from compressc.strangers import reading
from compressc.tasks.known import of_kind
from compressc.tasks.metric import BALANCED, MIOU, Metric
from compressc.tasks.settled import SettledTask

#: Standard deviations above what equal classes would show by chance.
SURE = 4.0
#: Classes are unequal where the most frequent is that many times the rarest.
UNEQUAL = 2.0
#: More classes than this are not looked at one by one.
FEW_CLASSES = 256


class Scoring:
    """The scores of a task for one model; feed it every batch, then read.

    Args:
        settled: the task. One of the user's own that has no targets is judged by the likeness of
            its output to the teacher's, as any output of that kind.
    """

    def __init__(self, settled: SettledTask) -> None:
        likeness = not settled.by_rows and not settled.labels
        self.settled = replace(settled, task=of_kind(settled.kind)) if likeness else settled
        with self._strange("makes its scores"):
            self._meters = dict(self.settled.task.scores(self.settled))
            for meter in self._meters.values():
                # each process scores all samples: nothing is to be gathered
                meter.distributed_available_fn = _alone
        self._fed: set[int] = set()

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Every score of the task, the one that matters most first."""
        return tuple(self._meters)

    def update(
        self, outputs: Mapping[str, Tensor], targets: Any, teacher: Mapping[str, Tensor]
    ) -> None:
        """Add a batch.

        Args:
            outputs: what `SettledTask.outputs` reads of the model, `[b, ...]` each, by name.
            targets: of `SettledTask.targets`, or None.
            teacher: what it reads of the teacher for the same samples.

        Raises:
            CompresscError: CC301 where shapes differ, CC106 where a task fails on its own scores.
        """
        _require_alike(outputs, teacher)
        with self._strange("scores outputs"):
            ours = self.settled.task.predictions(self.settled, outputs)
            theirs = self.settled.task.predictions(self.settled, teacher)
            done: set[tuple[int, str]] = set()
            for metric, meter in self._meters.items():
                wanted = targets if metric.against == "labels" else theirs
                if wanted is None or (id(meter), metric.against) in done:
                    continue
                done.add((id(meter), metric.against))
                self._fed.add(id(meter))
                with torch.no_grad():
                    meter.update(ours, wanted)

    def values(self) -> dict[str, float]:
        """Every score that has a meaning, by name."""
        with self._strange("computes its scores"):
            found = {}
            for metric, meter in self._meters.items():
                if id(meter) in self._fed:
                    value = _number(meter.compute(), metric.name)
                    if not math.isnan(value):
                        found[metric.name] = value
            return found if self.unequal else {k: v for k, v in found.items() if k not in _BALANCE}

    def constants(self) -> dict[str, float]:
        """What the best answer that is the same for every sample would score, by name.

        It tells what a score is worth: 95 % is nothing where 95 % of the labels are one class.
        Scores of a task of one's own have none, unless its accumulators have `constant()`.
        """
        found = {}
        for metric, meter in self._meters.items():
            constant = getattr(meter, "constant", None)
            if callable(constant) and id(meter) in self._fed:
                value = constant().get(metric.name)
                if value is not None and (self.unequal or metric.name not in _BALANCE):
                    found[metric.name] = value
        return found

    @property
    def unequal(self) -> bool:
        """Whether some classes have far fewer labels than others, by more than chance."""
        there = torch.tensor([n for n in self._wanted if n], dtype=torch.float64)
        if len(there) < 2 or float(there.max()) < UNEQUAL * float(there.min()):
            return False
        even, freedom = there.mean(), len(there) - 1
        chi2 = float(((there - even) ** 2 / even).sum())
        return chi2 > freedom + SURE * math.sqrt(2 * freedom)

    @property
    def class_counts(self) -> list[int]:
        """Labels of each class, where there are several and not too many; else empty."""
        wanted = self._wanted
        return wanted if 1 < len(wanted) <= FEW_CLASSES else []

    @property
    def recalls(self) -> list[float | None]:
        """Share that is right of each of `class_counts`; None for a class without labels."""
        wanted = self.class_counts
        return self._counts.recalls()[: len(wanted)] if wanted else []

    @property
    def _wanted(self) -> list[int]:
        counts = self._counts
        return [] if counts is None else counts.wanted.tolist()

    @property
    def _counts(self) -> Any:
        """The accumulator that counts labels by class, where each class is to be told.

        The tokens of a language are no such classes.
        """
        meters = (m for metric, m in self._meters.items() if metric.name in _BY_CLASS)
        return next((m for m in meters if hasattr(m, "recalls") and id(m) in self._fed), None)

    def _strange(self, does: str) -> Any:
        wanted = f"the task '{self.settled.task.name}' {does}"
        return reading("CC106", wanted, type(self.settled.task).__qualname__)


_BALANCE = (BALANCED.name,)
_BY_CLASS = (BALANCED.name, MIOU.name)


def _alone() -> bool:
    """What torchmetrics asks before it gathers from other processes."""
    return False


def metrics(settled: SettledTask) -> tuple[Metric, ...]:
    """The scores of a task, the one that matters most first."""
    return Scoring(settled).metrics


def score(
    settled: SettledTask, output: Tensor, labels: Tensor | None, teacher: Tensor
) -> dict[str, float]:
    """Scores of one judged output `[n, ...]` by labels and by the teacher's, in one go.

    Raises:
        CompresscError: CC301 where the shapes differ.
    """
    return _scored(settled, output, labels, teacher).values()


def constant_scores(
    settled: SettledTask, labels: Tensor | None, teacher: Tensor
) -> dict[str, float]:
    """What the best answer that is the same for every sample would score, in one go."""
    return _scored(settled, teacher, labels, teacher).constants()


def _scored(
    settled: SettledTask, output: Tensor, labels: Tensor | None, teacher: Tensor
) -> Scoring:
    scoring = Scoring(settled)
    scoring.update({settled.output: output}, labels, {settled.output: teacher})
    return scoring


def _require_alike(outputs: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> None:
    for name, output in outputs.items():
        if output.shape != teacher[name].shape:
            raise CompresscError(
                "CC301",
                "an output has the shape of the teacher's",
                got=f"{list(output.shape)} and {list(teacher[name].shape)}",
                where=f"output '{name}'",
            )


def _number(computed: Any, name: str) -> float:
    return float(computed[name] if isinstance(computed, Mapping) else computed)
