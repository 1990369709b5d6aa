"""One distillation: the loss of a batch and the score of a student."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from compressc.data.source import in_order
from compressc.distillation.loss import Loss
from compressc.distillation.seen import Seen, look
from compressc.distillation.teacher import Answering, Answers, Reader
from compressc.pipeline import Batch, Samples
from compressc.tasks import Metric, Scoring, SettledTask
from compressc.tasks.metric import LIKELIHOODS
from compressc.training import (
    Drawn,
    Lesson,
    SampleBatches,
    Score,
    Spread,
    batch_norms,
    drawn,
    reestimate_on_trial,
)
from compressc.training.statistics import Trial

#: Samples validated at a time.
VALIDATE = 256
#: Samples that batch norms take their statistics from after an epoch, at most; and at the end.
SEEN, SEEN_LAST = 256, 1024
#: New statistics that lose more than this share of the loss are those of another world, and steps
#: that work by them lead there; less is soon won back.
LOST = 1.0


@dataclass(frozen=True)
class Teaching:
    """Samples, the teacher's answers to them, and the loss.

    Attributes:
        samples: what is taught or examined.
        device: of the models.
        teacher: answers to these samples.
        student: reads the same off the student.
        task: what the student is for.
        loss: what is minimized.
        heads: how many of the features, the last ones, are heads.
    """

    samples: Samples
    device: torch.device
    teacher: Answering
    student: Reader
    task: SettledTask
    loss: Loss
    heads: int = 0

    def batches(self, size: int, views: int = 0) -> SampleBatches:
        """Samples, shuffled each epoch; with augmentation so many views of each, 0 for ever new."""
        return SampleBatches(self.samples, size, self.device, views)

    def seen(self, most: int = SEEN) -> Spread | tuple[()]:
        """Inputs of so many samples for the statistics of batch norms, where there are any."""
        if not batch_norms(self.student.module.modules()):
            return ()
        return Spread(self.samples, most, self.device)

    def probe(self) -> tuple[Tensor, ...]:
        """Inputs of one sample, on the device."""
        return self.samples.take(1).to(self.device).inputs

    def lesson(
        self, batches: SampleBatches, validate: Callable[[nn.Module], Score]
    ) -> Lesson[Drawn]:
        """What the training engine is given; modules of objectives are trained along."""
        beside = {f"objective {name}": module for name, module in self.loss.own.items()}
        loss = self.loss
        return Lesson(
            batches,
            self.terms,
            validate,
            self.seen(),
            loss.weights,
            beside=beside,
            silent=loss.silent,
            by_labels=loss.by_labels,
            seen_last=self.seen(SEEN_LAST),
        )

    def terms(self, module: nn.Module, batch: Drawn) -> dict[str, Tensor]:
        """The terms of the loss, scalars, for the samples of a batch."""
        return self.loss.values(self.seen_of(module, batch))

    def first_seen(self) -> Seen:
        """What is seen of one sample, without gradients."""
        return self.some_seen(1)

    def some_seen(self, count: int = VALIDATE) -> Seen:
        """What is seen of the first samples, as many as are looked at together at most."""
        batch = next(self._in_order(min(count, len(self.samples))))
        with torch.no_grad():
            return self.seen_of(self.student.module, batch)

    def seen_of(self, module: nn.Module, batch: Drawn) -> Seen:
        """What is seen of a batch; `module` is the student's or a wrapper of it."""
        theirs, ours = self.teacher.answers(batch), self.student(module, batch.samples.inputs)
        return self._look(ours, theirs, batch)

    def _look(self, ours: Answers, theirs: Answers, batch: Drawn) -> Seen:
        part, reads = batch.samples, self.loss.reads
        targets, valid = self._targets(part), self.task.valid(part.inputs)
        seen = look(self.task, ours, theirs, targets, reads, batch.progress, valid, self.heads)
        return replace(seen, positions=batch.positions, samples=len(self.samples))

    @torch.no_grad()
    def examine(self, module: nn.Module) -> tuple[float, ...]:
        """Minus the loss by the outputs, then a score for each of `judged`, over all samples.

        The first score is held against the labels; without labels, against the teacher.
        """
        total, scoring, loss = 0.0, Scoring(self._plain), self.loss.outer
        for batch in self._in_order(len(self.samples)):
            part, theirs = batch.samples, self.teacher.answers(batch)
            ours = self.student(module, part.inputs)
            total += float(loss.total(self._look(ours, theirs, batch))) * len(part)
            self._score(scoring, ours.learned, part, theirs.dense())
        found = scoring.values()
        return -total / len(self.samples), *(found.get(one.name, 0.0) for one in self.judged)

    @torch.no_grad()
    def scores_by_parts(self, module: nn.Module, count: int) -> list[float]:
        """The task's first score of the student on each of `count` stretches of the samples."""
        return self._by_parts(count, lambda batch: self.student(module, batch.samples.inputs))

    @torch.no_grad()
    def teacher_by_parts(self, count: int, teacher: Answering | None = None) -> list[float]:
        """The same of the teacher, or of another one that answers to these samples.

        NaN for a score of likelihoods where the answers were kept short: what the right one has
        among all others is not known then.
        """
        return self._by_parts(count, (teacher or self.teacher).answers)

    def _by_parts(self, count: int, answers: Callable[[Drawn], Answers]) -> list[float]:
        found = []
        for part in torch.arange(len(self.samples)).chunk(count):
            scoring = Scoring(self._plain)
            requests = ((part[i : i + VALIDATE], None) for i in range(0, len(part), VALIDATE))
            told = True
            for batch in drawn(self.samples, requests, self.device):
                ours, theirs = answers(batch), self.teacher.answers(batch).dense()
                told = ours.largest is None or self.metric.name not in LIKELIHOODS
                self._score(scoring, ours.dense(), batch.samples, theirs)
            found.append(scoring.values().get(self.metric.name, math.nan) if told else math.nan)
        return found

    @cached_property
    def constant(self) -> float:
        """The score of the best answer that is the same for all samples; NaN where it has none."""
        batch = next(self._in_order(min(len(self.samples), VALIDATE)))
        part, theirs = batch.samples, self.teacher.answers(batch).dense()
        scoring = Scoring(self._plain)
        self._score(scoring, theirs, part, theirs)
        return scoring.constants().get(self.metric.name, math.nan)

    def _in_order(self, count: int) -> Iterator[Drawn]:
        """The first samples as they are, some at a time."""
        requests = ((positions, None) for positions in in_order(count, VALIDATE))
        return drawn(self.samples, requests, self.device)

    @cached_property
    def metric(self) -> Metric:
        """What the exam scores."""
        return self.judged[0]

    @cached_property
    def judged(self) -> tuple[Metric, ...]:
        """The task's first score, and how like the teacher's answers are where that is not it."""
        first, *others = Scoring(self._plain).metrics
        alike = [one for one in others if one.against == "teacher" != first.against]
        return first, *alike[:1]

    @cached_property
    def _plain(self) -> SettledTask:
        """The task as if what is learned were the output."""
        return self.task.of_values()

    def _score(
        self, scoring: Scoring, ours: Sequence[Tensor], part: Batch, theirs: Sequence[Tensor]
    ) -> None:
        read, targets = self.task.read_values, self._targets(part)
        scoring.update(read(ours), targets if self._plain.labels else None, read(theirs))

    def _targets(self, part: Batch) -> Any:
        return self.task.targets(part.inputs, part.labels)


def trial_of_statistics(teaching: Teaching, exam: Teaching) -> Trial | None:
    """What the loss is with batch norm statistics of the samples that are taught.

    The student is left as it is. None where it has no batch norms.
    """
    module, seen = teaching.student.module.eval(), teaching.seen()
    if not seen:
        return None
    return reestimate_on_trial(module, seen, lambda: -exam.examine(module)[0], keep=False)


def suits(trial: Trial) -> bool:
    """Whether batch norms may work by such statistics in steps."""
    return not trial.after - trial.before > LOST * abs(trial.before)
