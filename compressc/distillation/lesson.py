"""One distillation: the loss of a batch and the score of a student."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from compressc.data.source import in_order
from compressc.distillation.objective import Mixed, Objective, mixed_form
from compressc.distillation.points import feature_loss
from compressc.distillation.teacher import GivenAnswers, Reader, Teacher
from compressc.pipeline import Batch, Samples
from compressc.tasks import NO_LABEL, Metric, Response, Scoring, SettledTask
from compressc.training import Drawn, SampleBatches, batch_norms, drawn, variance

#: Samples validated at a time.
VALIDATE = 256
#: Samples that batch norms take their statistics from after an epoch.
SEEN = 1024


@dataclass(frozen=True)
class Mixture:
    """Loss = alpha * loss by labels + (1 - alpha) * objective.

    Attributes:
        objective: the distillation loss.
        alpha: weight of the labels; without labels it counts as 0.
        temperature: T of the objective.
        task: knows the loss by labels.
    """

    objective: Objective
    alpha: float
    temperature: float
    task: SettledTask

    def of(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """Loss of answers `[n, v]` and what labels say of each, as `SettledTask.split` has both."""
        alpha = 0.0 if labels is None else self.alpha
        classes = self.task.judged.learned == "class_scores"
        mixed = None if labels is None else self._in_one_pass(labels)
        if mixed is not None and labels is not None:
            return mixed(
                student, teacher, labels, self.temperature, kl_share=1 - alpha, reduction="mean"
            )
        total = student.new_zeros(())
        if alpha < 1:
            known = labels if classes else None
            total = (1 - alpha) * self.objective(student, teacher, known, self.temperature)
        if alpha > 0 and labels is not None:
            supervised = self.task.supervised_loss(student, labels)
            if self.task.judged.learned == "values":  # of the objective's scale
                supervised = supervised / variance(teacher)
            total = total + alpha * supervised
        return total

    def _in_one_pass(self, labels: Tensor) -> Mixed | None:
        """The objective's form for both terms, where the means of all rows are its means."""
        mixed = mixed_form(self.objective)
        if mixed is None or not self.task.cross_entropy or not 0 < self.alpha < 1:
            return None
        return None if bool((labels == NO_LABEL).any()) else mixed


@dataclass(frozen=True)
class Teaching:
    """Samples, the teacher's answers to them, and the loss.

    Attributes:
        samples: what is taught or examined.
        device: of the models.
        teacher: answers to these samples.
        student: reads the same off the student.
        mixture: the loss of the judged output.
        others: the other outputs in the order of the answers, each with its objective.
        features: weight of the feature loss.
    """

    samples: Samples
    device: torch.device
    teacher: Teacher | GivenAnswers
    student: Reader
    mixture: Mixture
    others: tuple[tuple[Response, Objective], ...] = ()
    features: float = 0.0

    def batches(self, size: int, views: int = 0) -> SampleBatches:
        """Samples, shuffled each epoch; with augmentation so many views of each, 0 for ever new."""
        return SampleBatches(self.samples, size, self.device, views)

    def seen(self) -> tuple[Tensor, ...]:
        """Inputs for the statistics of batch norms, where there are any: at most 1024."""
        if not batch_norms(self.student.module.modules()):
            return ()
        total = len(self.samples)
        index = torch.arange(min(total, SEEN)) * total // min(total, SEEN)
        return self.samples.select(index).to(self.device).inputs

    def probe(self) -> tuple[Tensor, ...]:
        """Inputs of one sample, on the device."""
        return self.samples.take(1).to(self.device).inputs

    def terms(self, module: nn.Module, batch: Drawn) -> dict[str, Tensor]:
        """The terms of the loss, scalars, for the samples of a batch."""
        part = batch.samples
        theirs = self.teacher.answers(batch)
        ours = self.student(module, part.inputs)
        found = {"answers": self._answers_loss(ours.learned, theirs.learned, self._targets(part))}
        if theirs.features:
            found["features"] = feature_loss(ours.features, theirs.features)
        return found

    @property
    def weights(self) -> dict[str, float]:
        """Of the terms."""
        return {"answers": 1.0, "features": self.features}

    def _answers_loss(
        self, ours: Sequence[Tensor], theirs: Sequence[Tensor], targets: Any
    ) -> Tensor:
        """The mixture for the judged output, and the mean over the others, each by its kind."""
        task, alpha = self.mixture.task, self.mixture.alpha
        (student, teacher), known = task.split([ours[0], theirs[0]], targets)
        total = self.mixture.of(student, teacher, known)
        if targets is not None and not task.by_rows:  # targets of all outputs together
            total = (1 - alpha) * total + alpha * task.loss(ours, targets)
        for (response, objective), mine, its in zip(self.others, ours[1:], theirs[1:], strict=True):
            rows = response.rows(mine), response.rows(its)
            total = total + objective(*rows, None, self.mixture.temperature) / len(self.others)
        return total

    @torch.no_grad()
    def examine(self, module: nn.Module) -> tuple[float, float]:
        """(minus the loss without features, the task's first score) over all samples.

        The score is held against the labels; without labels, against the teacher.
        """
        total, scoring = 0.0, Scoring(self._plain)
        for batch in self._in_order(len(self.samples)):
            part, theirs = batch.samples, self.teacher.answers(batch).learned
            ours = self.student(module, part.inputs).learned
            total += float(self._answers_loss(ours, theirs, self._targets(part))) * len(part)
            self._score(scoring, ours, part, theirs)
        return -total / len(self.samples), scoring.values().get(self.metric.name, 0.0)

    @cached_property
    def constant(self) -> float:
        """The score of the best answer that is the same for all samples; NaN where it has none."""
        batch = next(self._in_order(min(len(self.samples), VALIDATE)))
        part, theirs = batch.samples, self.teacher.answers(batch).learned
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
        return Scoring(self._plain).metrics[0]

    @cached_property
    def _plain(self) -> SettledTask:
        """The task as if what is learned were the output."""
        return self.mixture.task.of_values()

    def _score(
        self, scoring: Scoring, ours: Sequence[Tensor], part: Batch, theirs: Sequence[Tensor]
    ) -> None:
        read, targets = self.mixture.task.read_values, self._targets(part)
        scoring.update(read(ours), targets if self._plain.labels else None, read(theirs))

    def _targets(self, part: Batch) -> Any:
        return self.mixture.task.targets(part.inputs, part.labels)
