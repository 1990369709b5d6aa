"""One distillation: the loss of a batch and the score of a student."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressc.data import Split
from compressc.training import TensorBatches, batch_norms, batched
from compressc_distill.features import feature_loss
from compressc_distill.objectives import Objective
from compressc_distill.outputs import NO_LABEL, Rows
from compressc_distill.teacher import Reader, Teacher

#: Samples validated at a time.
VALIDATE = 256
#: Samples that batch norms take their statistics from after an epoch.
SEEN = 1024


@dataclass(frozen=True)
class Mixture:
    """Loss = alpha * cross entropy + (1 - alpha) * objective + features * feature loss.

    Attributes:
        objective: the distillation loss.
        alpha: weight of the labels; without labels it counts as 0.
        temperature: T of the objective.
        features: weight of the feature loss.
    """

    objective: Objective
    alpha: float
    temperature: float
    features: float

    def of(self, student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
        """Loss of rows of logits `[n, v]` and labels `[n]`, features aside."""
        alpha = 0.0 if labels is None else self.alpha
        total = student.new_zeros(())
        if alpha < 1:
            total = (1 - alpha) * self.objective(student, teacher, labels, self.temperature)
        # where no row has a label, cross entropy is 0/0
        if alpha > 0 and labels is not None and bool((labels != NO_LABEL).any()):
            total = total + alpha * F.cross_entropy(student, labels, ignore_index=NO_LABEL)
        return total


@dataclass(frozen=True)
class Teaching:
    """Samples, the teacher's answers to them, and the loss.

    Attributes:
        samples: what is taught or examined, on the device of the models.
        teacher: answers to these samples.
        student: reads logits and features off the student.
        rows: how logits become rows.
        mixture: the loss.
    """

    samples: Split
    teacher: Teacher
    student: Reader
    rows: Rows
    mixture: Mixture

    def batches(self, size: int) -> TensorBatches:
        """Positions of samples, shuffled each epoch."""
        device = self.samples.inputs[0].device
        return TensorBatches([torch.arange(len(self.samples), device=device)], size)

    def seen(self) -> tuple[Tensor, ...]:
        """Inputs for the statistics of batch norms, where there are any: at most 1024."""
        if not batch_norms(self.student.module.modules()):
            return ()
        total = len(self.samples)
        index = torch.arange(min(total, SEEN)) * total // min(total, SEEN)
        return tuple(tensor[index] for tensor in self.samples.inputs)

    def loss(self, module: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        """Scalar training loss of the samples at the positions in `batch[0]`."""
        part = self.samples.select(batch[0])
        theirs = self.teacher.answers(batch[0])
        ours = self.student(module, part.inputs)
        total = self.mixture.of(*self.rows.split(ours.logits, theirs.logits, part.labels))
        if theirs.features:
            total = total + self.mixture.features * feature_loss(ours.features, theirs.features)
        return total

    def examine(self, module: nn.Module) -> tuple[float, float]:
        """(minus the loss without features, share of right answers) over all samples.

        Right is what the label says; without labels, what the teacher says.
        """
        total = right = known = 0.0
        for (index,) in batched([torch.arange(len(self.samples))], VALIDATE):
            part = self.samples.select(index)
            ours, theirs, labels = self.rows.split(
                self.student(module, part.inputs).logits,
                self.teacher.answers(index).logits,
                part.labels,
            )
            total += float(self.mixture.of(ours, theirs, labels)) * len(index)
            truth = theirs.argmax(-1) if labels is None else labels
            right += float((ours.argmax(-1) == truth).sum())
            known += float((truth != NO_LABEL).sum())
        return -total / len(self.samples), right / max(known, 1.0)
