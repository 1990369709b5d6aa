"""What an objective sees of a batch: readings of the student and of the teacher, and labels.

What does not count is left out where this is made, and nowhere else: positions that are padding or
have the label `NO_LABEL` are no rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compressc.distillation.attention import Attention
from compressc.distillation.teacher import Answers
from compressc.distillation.vectors import one_each
from compressc.kernels import TopK
from compressc.tasks import SettledTask
from compressc.training import variance

#: What an objective may read; see `Readings` and `Seen`.
Reading = Literal["rows", "others", "features", "attention", "vectors", "heads", "labels", "spans"]
#: Readings of the inside of a model, as against its outputs.
INNER: frozenset[Reading] = frozenset({"features", "attention"})
#: Progress of what is not a step of a run: behind warm-ups, before decays.
MIDDLE = 0.5


@dataclass(frozen=True)
class Readings:
    """What is read off one model for a batch of `b` samples.

    Attributes:
        rows: the judged answers that count, `[n, v]`, before a final softmax, sigmoid or norm; of
            a teacher that knows fewer classes than the student, and of the student, these alone.
        others: the answers of the other outputs as they are, `[b, ...]` each.
        features: the value at each feature point, `[b, ...]`.
        attention: of each attention layer that is matched.
        largest: of the teacher's judged class scores, as rows, where they are kept short; `rows`
            holds none then. For objectives that say so, see `Objective.takes_largest`.
        vectors: one for each sample, `[b, d]`; where an objective reads them.
        heads: the last values with weights before each output, `[b, ...]` each; see `find_heads`.
    """

    rows: Tensor
    others: tuple[Tensor, ...] = ()
    features: tuple[Tensor, ...] = ()
    attention: tuple[Attention, ...] = ()
    vectors: Tensor | None = None
    largest: TopK | None = None
    heads: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class ByLabels:
    """The loss of the task by the labels of a batch.

    Attributes:
        loss: gives it, a scalar.
        cross_entropy: it is the plain mean cross entropy of the rows, as a kernel computes it.
    """

    loss: Callable[[], Tensor]
    cross_entropy: bool = False


@dataclass(frozen=True)
class Spans:
    """Spans of text that a teacher of another tokenizer cuts at the same places.

    Attributes:
        number: which span the label of each row is a word of, i64[n]; -1 for none. All words of a
            span are there.
        likelihood: log of the teacher's likelihood of each span, f[k].
    """

    number: Tensor
    likelihood: Tensor

    @classmethod
    def of(cls, number: Tensor, likelihood: Tensor, words: Tensor) -> Spans:
        """Of rows: numbers i64[n], unlike in all texts; f[n] and i64[n] of the span of each."""
        known = number >= 0
        _, place, there = torch.unique(number[known], return_inverse=True, return_counts=True)
        each = likelihood.new_zeros(len(there)).index_put((place,), likelihood[known])
        wanted = words.new_zeros(len(there)).index_put((place,), words[known])
        whole = there == wanted
        order = torch.where(whole, whole.cumsum(0) - 1, -1)
        found = torch.full_like(number, -1)
        found[known] = order[place]
        return cls(found, each[whole])


@dataclass(frozen=True)
class Seen:
    """What an objective sees of a batch.

    Attributes:
        student: carries the gradient.
        teacher: carries none.
        labels: class of each row, i64[n], `NO_LABEL` where nobody knows it; None where rows have no
            classes or the data no labels.
        by_labels: the loss of the task; None where the batch has no labels.
        progress: share of the run that is over, 0 to 1, for warm-ups and decays.
        own: the module that the objective made for itself.
        valid: which positions of a sequence are no padding, bool `[b, s]`; None where nothing is.
        agreement: share of several teachers that answer as all together do, of each row, `[n]`;
            None where there is one teacher, or answers are no classes.
        positions: of the samples in the part of the data that they are from, i64[b]; None where
            nobody knows.
        samples: how many that part has, 0 where nobody knows.
        spans: what a teacher of another tokenizer says; None of any other.
    """

    student: Readings
    teacher: Readings
    labels: Tensor | None = None
    by_labels: ByLabels | None = None
    progress: float = MIDDLE
    own: nn.Module | None = field(default=None, compare=False)
    valid: Tensor | None = None
    agreement: Tensor | None = None
    positions: Tensor | None = None
    samples: int = 0
    spans: Spans | None = None

    @property
    def classes(self) -> int:
        """Numbers in a row."""
        return self.student.rows.shape[-1]

    def among(self, student: Tensor, teacher: Tensor) -> Seen:
        """With the rows `[n, v]` of an output that is not judged: no labels are known of them."""
        ours = replace(self.student, rows=student)
        theirs = replace(self.teacher, rows=teacher, largest=None)
        apart = {"labels": None, "by_labels": None, "agreement": None}
        return replace(self, student=ours, teacher=theirs, **apart)  # type: ignore[arg-type]


def look(  # noqa: PLR0913  (two models, what they are for, and when)
    task: SettledTask,
    student: Answers,
    teacher: Answers,
    targets: Any,
    reads: Collection[Reading] = (),
    progress: float = MIDDLE,
    valid: Tensor | None = None,
    heads: int = 0,
) -> Seen:
    """What there is to see of a batch.

    Args:
        task: knows which rows count, and what labels say of them.
        student, teacher: what was read off them.
        targets: of `SettledTask.targets`.
        reads: what objectives read; what nobody reads is not made.
        progress: of the run.
        valid: of `SettledTask.valid`.
        heads: how many of the features, the last ones, are heads.
    """
    points = len(student.features) - heads
    short, first = teacher.largest, student.learned[0]
    parts = (teacher.learned[0],) if short is None else short.parts()
    alike = () if teacher.agreement is None else (teacher.agreement,)
    cut = teacher.spans or ()
    (own, *others), known = task.split([first, *parts, *alike, *cut], targets)
    spans = Spans.of(*(x.squeeze(-1) for x in others[-3:])) if cut else None
    agreement = others[len(parts)].squeeze(-1) if alike else None
    rows = [own, others[0] if short is None else own[:0].detach()]
    by_labels = _by_labels(task, student, rows, known, targets, whole=teacher.known is None)
    rows = [x[:, : teacher.known] for x in rows]
    ours, theirs = (
        Readings(
            its,
            answers.learned[1:],
            answers.features[:points],
            answers.attention,
            vectors=vectors,
            heads=answers.features[points:],
        )
        for its, answers, vectors in zip(
            rows, (student, teacher), _vectors(student, teacher, valid, reads), strict=True
        )
    )
    if short is not None:
        theirs = replace(theirs, largest=short.rows(others[: len(parts)]))
    labels = known if task.judged.learned == "class_scores" else None
    seen = Seen(ours, theirs, labels, by_labels, progress, valid=valid, agreement=agreement)
    return replace(seen, spans=spans)


def _vectors(
    student: Answers, teacher: Answers, valid: Tensor | None, reads: Collection[Reading]
) -> tuple[Tensor | None, Tensor | None]:
    """What was read, or the judged values where the teacher's answers are of outputs alone."""
    if "vectors" not in reads:
        return None, None
    if student.vectors is not None and teacher.vectors is not None:
        return student.vectors, teacher.vectors
    return one_each(student.learned[0], valid), one_each(teacher.learned[0], valid)


def _by_labels(  # noqa: PLR0913  (as `look`)
    task: SettledTask,
    student: Answers,
    rows: list[Tensor],
    known: Tensor | None,
    targets: Any,
    *,
    whole: bool,
) -> ByLabels | None:
    """The loss by labels, by all classes, of the scale of the objectives for values.

    Objectives are shown the same rows where they are `whole`.
    """
    if targets is None:
        return None
    if not task.by_rows:
        return ByLabels(lambda: task.loss(student.learned, targets))
    if known is None:
        return None
    ours, theirs = rows
    if task.judged.learned == "values":
        return ByLabels(lambda: task.supervised_loss(ours, known) / variance(theirs))
    alike = task.cross_entropy and whole
    return ByLabels(lambda: task.supervised_loss(ours, known), alike)


def mapped(change: Callable[[str, Tensor], Tensor], readings: Readings) -> Readings:
    """Readings with `change(name, tensor)` in place of each tensor.

    Names are `rows`, `others.0`, `features.0`, `attention.0.query`, `vectors`.
    """
    vectors = readings.vectors
    return replace(
        readings,
        rows=change("rows", readings.rows),
        others=tuple(change(f"others.{i}", x) for i, x in enumerate(readings.others)),
        features=tuple(change(f"features.{i}", x) for i, x in enumerate(readings.features)),
        attention=tuple(_mapped(change, i, layer) for i, layer in enumerate(readings.attention)),
        vectors=None if vectors is None else change("vectors", vectors),
        heads=tuple(change(f"heads.{i}", x) for i, x in enumerate(readings.heads)),
    )


def _mapped(change: Callable[[str, Tensor], Tensor], place: int, layer: Attention) -> Attention:
    query, key, value = (
        change(f"attention.{place}.{name}", getattr(layer, name))
        for name in ("query", "key", "value")
    )
    return replace(layer, query=query, key=key, value=value)
