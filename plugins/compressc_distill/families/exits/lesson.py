"""What heads learn, and what they are held against."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compressc.data.source import in_order
from compressc.distillation import Answers, Objective, Reader, look, parse_objective
from compressc.pipeline import Samples
from compressc.tasks import SettledTask
from compressc.training import Drawn, Group, Lesson, SampleBatches, Spread, drawn
from compressc_distill.families.exits.curve import Held

#: Samples that answer at a time, and samples for the statistics of batch norms after an epoch.
_AT_A_TIME, _SEEN = 256, 256


@dataclass(frozen=True)
class Heads:
    """Heads in training, and the rest of the model.

    Attributes:
        reader: reads the output, and the class scores of the heads.
        taught, examined: what they learn from, and what they are held against.
        task: what the model is for.
        device: of the model.
        objective: what a head learns of the output.
        alpha: share of the labels in the loss of a head.
        body: whether the output learns by the labels.
    """

    reader: Reader
    taught: Samples
    examined: Samples
    task: SettledTask
    device: torch.device
    objective: Objective
    alpha: float
    body: bool

    @property
    def title(self) -> str:
        """What is scored."""
        return Held(self.task).metric.title

    def lesson(self, size: int, still: Collection[int]) -> Lesson[Drawn]:
        """What the training engine is given."""
        trained = [p for p in self.reader.module.parameters() if id(p) not in still]
        return Lesson(
            SampleBatches(self.taught, size, self.device),
            self.terms,
            self.validate,
            seen=Spread(self.taught, _SEEN, self.device),
            weights=self.weights,
            groups=[Group(trained)],
        )

    @property
    def weights(self) -> dict[str, float]:
        """Of the terms."""
        return {"labels": self.alpha, "output": 1 - self.alpha}

    def terms(self, module: nn.Module, batch: Drawn) -> dict[str, Tensor]:
        """Means over the heads, scalars: what labels say, and what the output does."""
        part, inputs = batch.samples, batch.samples.inputs
        answers = self.reader(module, inputs)
        return self.losses(answers, part.labels, inputs, batch.progress)

    def losses(
        self, answers: Answers, labels: Any, inputs: Sequence[Tensor], progress: float
    ) -> dict[str, Tensor]:
        """The terms by what was answered."""
        targets, valid = self.task.targets(inputs, labels), self.task.valid(inputs)
        output = Answers((answers.learned[0].detach(),))
        by_labels = parse_objective("ce")
        found: dict[str, list[Tensor]] = {"labels": [], "output": []}
        for logits in answers.features:
            seen = look(self.task, Answers((logits,)), output, targets, (), progress, valid)
            found["output"].append(self.objective.mean(seen))
            if seen.by_labels is not None:
                found["labels"].append(by_labels.mean(seen))
        terms = {name: torch.stack(values).mean() for name, values in found.items() if values}
        if self.body:
            seen = look(self.task, answers, output, targets, (), progress, valid)
            terms["body"] = by_labels.mean(seen)
        return terms

    @torch.no_grad()
    def validate(self, module: nn.Module) -> tuple[float, float]:
        """(minus the loss, the score of the heads by themselves) on the held-out samples."""
        loss, held, weights = 0.0, Held(self.task), self.weights
        for batch, answers in self._answered(module):
            part = batch.samples
            terms = self.losses(answers, part.labels, part.inputs, batch.progress)
            loss += sum(weights.get(n, 1.0) * float(x) for n, x in terms.items()) * len(part)
            held.add(answers, self.task.targets(part.inputs, part.labels))
        scores = [held.score(held.of(i)) for i in range(held.heads)]
        sign = 1 if held.metric.better == "higher" else -1
        return -loss / len(self.examined), sign * sum(scores) / len(scores)

    @torch.no_grad()
    def held(self, module: nn.Module) -> Held:
        """All answers to the held-out samples."""
        held = Held(self.task)
        for batch, answers in self._answered(module):
            part = batch.samples
            held.add(answers, self.task.targets(part.inputs, part.labels))
        return held

    def _answered(self, module: nn.Module) -> Iterator[tuple[Drawn, Answers]]:
        requests = ((positions, None) for positions in in_order(len(self.examined), _AT_A_TIME))
        for batch in drawn(self.examined, requests, self.device):
            yield batch, self.reader(module, batch.samples.inputs)
