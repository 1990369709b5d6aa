"""What several teachers say together: `combine=` of `distill`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compressc.data.source import in_order
from compressc.distillation import Rule, Several, Teaching, mean
from compressc.errors import CompresscError
from compressc.tasks import NO_LABEL, Response
from compressc.training import Lesson, Recipe, TensorBatches, drawn, train

Combine = Literal["mean", "confidence", "learned"]

#: What a teacher counts that is as unsure as can be, so that weights always have a sum.
_LEAST = 1e-6
#: Rows that weights are learned from at most, and samples that are asked about at a time.
ROWS, ASK = 20_000, 256
#: Steps over all rows, their rate, and how strongly weights are held to the mean.
STEPS, RATE, PULL = 200, 0.05, 1e-3


def confidence(answers: Sequence[Tensor], response: Response) -> Tensor:
    """Logits weighted by 1 - H(p) / log c in each row: who is unsure counts less.

    By the entropy H of its own distribution over c classes, after Kwon et al. 2020 (Adaptive
    knowledge distillation based on entropy, ICASSP); no labels, so that the teachers together
    remain a model that can be judged.
    """
    dim = _classes(response, "confidence")
    logs = torch.stack([answer.float().log_softmax(dim) for answer in answers])
    axis = dim + 1 if dim >= 0 else dim
    entropy = -(logs.exp() * logs).sum(axis, keepdim=True)
    sure = (1 - entropy / math.log(logs.shape[axis])).clamp_min(_LEAST)
    weights = sure / sure.sum(0, keepdim=True)
    return (weights * torch.stack(list(answers))).sum(0)


@dataclass(frozen=True)
class Stacked:
    """A sum of the teachers' log-probabilities, each teacher and class with a weight of its own.

    Attributes:
        weights: `[k, c]`, of k teachers and c classes, at least 0; those of a class have the sum 1:
            it is learned whom to believe, not how surely.
    """

    weights: Tensor

    def __call__(self, answers: Sequence[Tensor], response: Response) -> Tensor:
        """Logits, in the form of the answers."""
        dim = _classes(response, "learned")
        found = torch.stack([x.float().log_softmax(dim).movedim(dim, -1) for x in answers])
        shape = (len(found), *(1 for _ in found.shape[1:-1]), -1)
        weights = self.weights.to(found.device)
        return (weights.view(shape) * found).sum(0).movedim(-1, dim)


class _Weights(nn.Module):
    """Weights `[k, c]` as a softmax over the teachers; equal at first."""

    def __init__(self, teachers: int, classes: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(teachers, classes))

    @property
    def weights(self) -> Tensor:
        """See `Stacked`."""
        return self.scores.softmax(0)

    def forward(self, logs: Tensor) -> Tensor:
        """`[n, k, c]` -> `[n, c]`."""
        return (self.weights * logs).sum(1)


def learned(exam: Teaching, several: Several, seed: int) -> Stacked:
    """The weights by which the teachers together do best by the labels of the held-out samples.

    Stacking (Wolpert 1992; Breiman 1996) of log-probabilities, in which cross entropy is convex;
    a small pull holds weights to the mean where labels do not tell. Teachers know the samples that
    they were trained on too well to be weighed by them.

    Args:
        exam: has the samples and what labels mean.
        several: the teachers.
        seed: of the training.
    """
    logs, labels = _rows(exam, several)
    module = _Weights(logs.shape[1], logs.shape[2])

    def terms(fitted: nn.Module, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        logs, labels = batch
        pull = module.scores.pow(2).mean()
        return {"ce": F.cross_entropy(fitted(logs), labels, ignore_index=NO_LABEL), "pull": pull}

    def score(fitted: nn.Module) -> float:
        return -float(F.cross_entropy(fitted(logs), labels, ignore_index=NO_LABEL))

    lesson = Lesson(TensorBatches((logs, labels), len(logs)), terms, score, weights={"pull": PULL})
    train(module, lesson, Recipe(STEPS, RATE, weight_decay=0.0, warmup=0.0, clip=0.0, seed=seed))
    return Stacked(module.weights.detach().to(exam.device))


#: Rules that need no labels; `learned` is fitted to them.
RULES: Mapping[str, Rule] = MappingProxyType({"mean": mean, "confidence": confidence})


def require_fit(combine: Combine, response: Response, labels: bool, where: str) -> None:
    """Refuse what teachers cannot say together, before any work.

    Raises:
        CompresscError: CC301 for an output of another kind than the rule is for, CC105 for
            `learned` without labels.
    """
    if response.learned == "embedding":
        raise CompresscError(
            "CC301",
            "several teachers answer in one space",
            got="embeddings: each teacher has a space of its own",
            where=f"output '{response.name}'",
        )
    if combine != "mean":
        _classes(response, combine)
    if combine == "learned" and not labels:
        raise CompresscError(
            "CC105",
            "combine=learned weighs teachers by labels",
            got="none",
            where=where,
            hint="combine=confidence needs none",
        )


def _classes(response: Response, combine: str) -> int:
    """The dimension of the classes.

    Raises:
        CompresscError: CC301 where there are none.
    """
    if response.learned != "class_scores" or response.value_dim is None:
        raise CompresscError(
            "CC301",
            f"combine={combine} weighs class scores",
            got=response.learned.replace("_", " "),
            where=f"output '{response.name}'",
            hint="combine=mean",
        )
    return response.value_dim


def _rows(exam: Teaching, several: Several) -> tuple[Tensor, Tensor]:
    """Log-probabilities `[n, k, c]` of the teachers and labels i64[n], on the CPU."""
    task, rows, known = exam.task, [], []
    requests = ((positions, None) for positions in in_order(len(exam.samples), ASK))
    for batch in drawn(exam.samples, requests, exam.device):
        each = [member.answers(batch).learned[0] for member in several.members]
        part = batch.samples
        values, labels = task.split(each, task.targets(part.inputs, part.labels))
        assert labels is not None  # see `require_fit`
        rows.append(torch.stack([x.float().log_softmax(-1) for x in values], 1).cpu())
        known.append(labels.cpu())
    logs, labels = torch.cat(rows), torch.cat(known)
    count = min(len(logs), ROWS)
    some = torch.arange(count) * len(logs) // max(count, 1)
    return logs[some], labels[some]
