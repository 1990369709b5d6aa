"""Scores: what each is called, which way is better, and how it is computed of a model's output."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from compressc.data.checks import NO_LABEL
from compressc.errors import CompresscError
from compressc.tasks.response import Response, as_rows
from compressc.tasks.settled import SettledTask


class Metric(BaseModel):
    """A score by name. A perfect one is 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: As in `Record`: accuracy, agreement, r2, teacher_r2, cosine.
    name: str
    #: As the head of a column.
    title: str
    #: Shares are shown in per cent.
    unit: Literal["%", ""]
    #: What the output is held against.
    against: Literal["labels", "teacher"]
    better: Literal["higher", "lower"] = "higher"
    #: What it counts, for the report.
    text: str


ACCURACY = Metric(
    name="accuracy", title="accuracy", unit="%", against="labels", text="share of labels met"
)
R2 = Metric(
    name="r2",
    title="R^2",
    unit="",
    against="labels",
    text="share of the variance of the labels explained",
)
TEACHER_R2 = Metric(
    name="teacher_r2",
    title="R^2 to teacher",
    unit="",
    against="teacher",
    text="share of the variance of the teacher's answers explained",
)
COSINE = Metric(
    name="cosine",
    title="cosine",
    unit="",
    against="teacher",
    text="mean cosine of the angle to the teacher's vectors",
)


def _agreement(what: str) -> Metric:
    return Metric(name="agreement", title="agreement", unit="%", against="teacher", text=what)


AGREEMENT: dict[str, Metric] = {
    "class_scores": _agreement("share of rows with the teacher's class"),
    "independent_scores": _agreement("share of numbers on the teacher's side of the threshold"),
    "values": _agreement("share of numbers with the teacher's sign"),
    "ids": _agreement("share of the teacher's integers met"),
}


def metrics(task: SettledTask) -> tuple[Metric, ...]:
    """The scores of a task, the one that matters most first."""
    kind, found = task.kind, []
    if task.labels:
        found.append(R2 if kind == "values" else ACCURACY)
    if kind == "values":
        found.append(TEACHER_R2)
    if kind == "embedding":
        found.append(COSINE)
    elif kind != "values" or task.signs:
        found.append(AGREEMENT[kind])
    return tuple(found)


def score(
    task: SettledTask, output: Tensor, labels: Tensor | None, teacher: Tensor
) -> dict[str, float]:
    """Every score of an output that has a meaning, by name.

    Args:
        task: what is judged.
        output: the judged output of all samples, `[n, ...]`.
        labels: of these samples, or None.
        teacher: the teacher's output for them, of the shape of `output`.

    Returns:
        Scores of `metrics(task)`; those that need labels are left out where there are none.

    Raises:
        CompresscError: CC301 where the shapes differ.
    """
    if output.shape != teacher.shape:
        raise CompresscError(
            "CC301",
            "an output has the shape of the teacher's",
            got=f"{list(output.shape)} and {list(teacher.shape)}",
            where=f"output '{task.output}'",
        )
    return _scores(task, output, labels, teacher, _SCORES)


def equal_answers(task: SettledTask, output: Tensor, other: Tensor) -> float | None:
    """Share of equal answers of two judged outputs; None where the model puts out no answers."""
    answers = any(metric.name == "agreement" for metric in metrics(task))
    return agreement(task.judged, output, other) if answers else None


def constant_scores(task: SettledTask, labels: Tensor | None, teacher: Tensor) -> dict[str, float]:
    """What the best answer that is the same for every sample would score, by name.

    It tells what a score is worth: 95 % is nothing where 95 % of the labels are one class.
    """
    return _scores(task, teacher, labels, teacher, _CONSTANTS)


Function = Callable[[Response, Tensor, Tensor], float]


def _scores(
    task: SettledTask,
    output: Tensor,
    labels: Tensor | None,
    teacher: Tensor,
    functions: dict[str, Function],
) -> dict[str, float]:
    found = {}
    for metric in metrics(task):
        wanted = labels if metric.against == "labels" else teacher
        if wanted is not None:
            value = functions[metric.name](task.judged, output, wanted)
            if not math.isnan(value):
                found[metric.name] = value
    return found


def accuracy(response: Response, output: Tensor, labels: Tensor) -> float:
    """Share of labelled positions that are right, in 0..1; NaN where none is labelled.

    A row that holds NaN counts as wrong.
    """
    wanted = labels.flatten()
    hits = chosen(response, output) == wanted
    return float(hits[wanted != NO_LABEL].double().mean())


def agreement(response: Response, output: Tensor, teacher: Tensor) -> float:
    """Share of positions at which output and teacher choose the same, in 0..1.

    A position where either holds NaN counts as disagreement.
    """
    ours, theirs = chosen(response, output), chosen(response, teacher)
    return float(((ours == theirs) & (ours >= 0)).double().mean())


def chosen(response: Response, output: Tensor) -> Tensor:
    """What is chosen at each position, i64, flat; -1 where a NaN leaves nothing to choose by."""
    answers = response.answers(output)
    if not output.is_floating_point():
        return answers
    # argmax ranks NaN highest, so that a broken row would be right by luck
    broken = torch.isnan(output)
    if response.kind == "class_scores":
        return answers.masked_fill(as_rows(broken, response.dim).any(-1), -1)
    return answers.masked_fill(broken.flatten(), -1)


def r2(response: Response, output: Tensor, wanted: Tensor) -> float:
    """1 - squared error / variance, summed over the features; -inf where a number is not finite.

    NaN where what is wanted does not vary.
    """
    ours, theirs = (_features(response, x, output.shape) for x in (output, wanted))
    # as a float, -100 may be any measurement
    known = torch.ones_like(theirs).bool() if wanted.is_floating_point() else theirs != NO_LABEL
    spread = (theirs - _mean(theirs, known))[known].pow(2).sum()
    if not float(spread):
        return math.nan
    error = (ours - theirs)[known].pow(2).sum()
    return float(1 - error / spread) if bool(torch.isfinite(error)) else -math.inf


def _mean(x: Tensor, known: Tensor) -> Tensor:
    return torch.where(known, x, 0.0).sum(0) / known.sum(0).clamp_min(1)


def _features(response: Response, x: Tensor, shape: torch.Size) -> Tensor:
    return as_rows(x.reshape(shape).double(), response.dim)


def cosine(response: Response, output: Tensor, teacher: Tensor) -> float:
    """Mean cosine of the angle between rows, in -1..1; a row that is not finite counts as 0."""
    ours, theirs = (_unit(as_rows(x, response.dim)) for x in (output, teacher))
    return float((ours * theirs).sum(-1).mean())


def _unit(rows: Tensor) -> Tensor:
    rows = rows.double()
    rows = torch.where(torch.isfinite(rows).all(-1, keepdim=True), rows, 0.0)
    lengths = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows.div(lengths.clamp_min(1e-300))


def _most_frequent(response: Response, answers: Tensor, shape: torch.Size) -> float:
    """Share of the most frequent answer; of each number by itself where they are independent."""
    if response.kind != "independent_scores":
        return float(torch.unique(answers, return_counts=True)[1].max()) / len(answers)
    shares = as_rows(answers.reshape(shape), response.dim).double().clamp(0, 1).mean(0)
    return float(torch.maximum(shares, 1 - shares).mean())


def _constant_accuracy(response: Response, output: Tensor, labels: Tensor) -> float:
    wanted = labels.flatten()
    wanted = wanted[wanted != NO_LABEL].long()
    if not len(wanted):
        return math.nan
    shape = output.shape if len(wanted) == output.numel() else torch.Size([len(wanted), 1])
    return _most_frequent(response, wanted, shape)


def _constant_agreement(response: Response, _: Tensor, teacher: Tensor) -> float:
    return _most_frequent(response, chosen(response, teacher), teacher.shape)


def _constant_cosine(response: Response, _: Tensor, teacher: Tensor) -> float:
    return float(_unit(as_rows(teacher, response.dim)).mean(0).norm())


_SCORES: dict[str, Function] = {
    "accuracy": accuracy,
    "agreement": agreement,
    "r2": r2,
    "teacher_r2": r2,
    "cosine": cosine,
}
_CONSTANTS: dict[str, Function] = {
    "accuracy": _constant_accuracy,
    "agreement": _constant_agreement,
    "r2": lambda response, output, labels: 0.0,
    "teacher_r2": lambda response, output, teacher: 0.0,
    "cosine": _constant_cosine,
}
