"""Peers in training: modules of one form, each with the others for teachers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from compressc.distillation import Answers, Objective, Reader, Several, Teaching, look
from compressc.tasks import SettledTask
from compressc.training import Drawn


class Peers(nn.Module):
    """Several modules of one form, run on the same inputs.

    Args:
        readers: of each.
    """

    def __init__(self, readers: Sequence[Reader]) -> None:
        super().__init__()
        self.each = nn.ModuleList(reader.module for reader in readers)

    def forward(self, *inputs: Tensor) -> list[Any]:
        """What each returns."""
        return [module(*inputs) for module in self.each]


@dataclass(frozen=True)
class Group:
    """Peers in training.

    Attributes:
        objective: the loss between peers.
        ensemble: whether the mean of all logits teaches each, and not every other peer.
        module: all of them.
        readers: of each.
        taught, exam: what they learn from, and what they are held against.
    """

    objective: Objective
    ensemble: bool
    module: Peers
    readers: Sequence[Reader]
    taught: Teaching
    exam: Teaching

    @property
    def task(self) -> SettledTask:
        """What they are for."""
        return self.taught.task

    def terms(self, module: nn.Module, batch: Drawn) -> dict[str, Tensor]:
        """Sums over the peers, scalars: what labels say, and what the other peers do."""
        part, inputs = batch.samples, batch.samples.inputs
        returned = module(*inputs)
        answers = [r.read(x, inputs) for r, x in zip(self.readers, returned, strict=True)]
        targets, valid = self.task.targets(inputs, part.labels), self.task.valid(inputs)
        labels, peers = [], []
        for mine in answers:
            for its in self._teachers(mine, answers):
                seen = look(self.task, mine, its, targets, (), batch.progress, valid)
                peers.append(self.objective.mean(seen))
            labels.append(self.taught.loss.total(seen))
        count = len(peers) / len(answers)
        return {"labels": torch.stack(labels).sum(), "peers": torch.stack(peers).sum() / count}

    def _teachers(self, mine: Answers, answers: Sequence[Answers]) -> list[Answers]:
        """Who teaches a peer; no gradient reaches them."""
        if not self.ensemble:
            return [_resting(other.learned) for other in answers if other is not mine]
        every = zip(*(other.learned for other in answers), strict=True)
        return [_resting([torch.stack(values).mean(0) for values in every])]

    def validate(self, module: nn.Module) -> tuple[float, float]:
        """Minus the loss by labels, and the score, of the best peer on the held-out samples."""
        return max(self.scores())

    def scores(self) -> list[tuple[float, float]]:
        """The same of each."""
        pairs = zip(self.readers, self.module.each, strict=True)
        found = (replace(self.exam, student=reader).examine(module) for reader, module in pairs)
        return [(less, score) for less, score, *_ in found]  # there is no teacher to be like

    def best(self) -> int:
        """The place of the best peer."""
        scores = self.scores()
        return scores.index(max(scores))

    def together(self) -> float:
        """The score of the mean of all logits."""
        each = [
            _Answering(reader, m) for reader, m in zip(self.readers, self.module.each, strict=True)
        ]
        return self.exam.teacher_by_parts(1, Several(each, self.task.judged))[0]


@dataclass(frozen=True)
class _Answering:
    """A peer that answers."""

    reader: Reader
    module: nn.Module

    def answers(self, batch: Drawn) -> Answers:
        """See `Answering`."""
        return self.reader(self.module, batch.samples.inputs)

    def close(self) -> None:
        """Nothing is kept."""


def _resting(learned: Sequence[Tensor]) -> Answers:
    return Answers(tuple(value.detach() for value in learned))
