"""Who pays for a compression: what each class and each slice loses, and what is amplified.

Hooker et al. 2020 (arXiv 2010.03058): a score that hardly falls may hide groups that fall much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from compressc.errors import CompresscError
from compressc.report.study_record import Column, Line, Picture, Row, StudyRecord, Table
from compressc.study.running import Study

if TYPE_CHECKING:
    from compressc.ir import Graph

#: Chance that any of all groups is named where none differs.
LEVEL = 0.05
#: Samples that are run together.
SAMPLES = 256


@dataclass(frozen=True)
class Group:
    """What became of some samples, by seed: students beside the teacher.

    Attributes:
        name: of it.
        kind: `class` or `slice`.
        size: samples in it.
        teacher: share that the teacher has right.
        drop: share less that students have right, by seed.
        beyond: standard errors by which the drop, mean over the seeds, is above that of all others.
        false_positives: of the teacher. Of a class: share of all other samples that are taken for
            it. Of a slice: mean over the classes.
        rise: change of that, by seed.
        rising: standard errors by which the change, mean over the seeds, is above that of the other
            classes, or of the samples outside of the slice.
    """

    name: str
    kind: str
    size: int
    teacher: float
    drop: list[float]
    beyond: float
    false_positives: float
    rise: list[float]
    rising: float


def bias(study: Study, passes: str, slices: Mapping[str, Tensor]) -> StudyRecord:
    """Run a list of passes, and hold each class and slice of the test part against the whole.

    Args:
        study: the model, its data and the seeds.
        passes: to run.
        slices: bool[n] over the test part, by name.

    Raises:
        CompresscError: CC105 for a task without a class for each sample.
    """
    task = study.task
    if task.task.name != "classification":
        got = f"task {task.task.name}"
        raise CompresscError("CC105", "a study of bias needs a class for each sample", got=got)
    labels = study.data.test.all_labels()
    assert labels is not None  # of a classification
    runs = [study.run(passes, seed) for seed in study.seeds]
    teacher = _answers(study, study.session.loaded.graph)
    students = torch.stack([_answers(study, run.graph) for run in runs])
    there = labels >= 0
    named = {name: mask[there] for name, mask in slices.items()}
    found = groups(labels[there], teacher[there], students[:, there], named)
    whole = (teacher == labels)[there].double().mean() - (
        (students == labels)[:, there].double().mean(1)
    )
    texts = follows(found, [float(x) for x in whole])
    tables = [_table(found, kind) for kind in ("class", "slice") if _of(found, kind)]
    pictures = [_picture(found, kind) for kind in ("class", "slice") if _of(found, kind)]
    return study.record("bias", texts, tables, pictures)


def groups(
    labels: Tensor, teacher: Tensor, students: Tensor, slices: Mapping[str, Tensor]
) -> list[Group]:
    """Each class, then each slice.

    Args:
        labels: classes i64[n].
        teacher: its answers i64[n].
        students: theirs i64[s, n], by seed.
        slices: bool[n] by name.
    """
    every = [int(c) for c in torch.unique(labels)]
    right = teacher == labels
    lost = right.double() - (students == labels).double()  # [s, n]: 1, 0 or -1
    taken = [_taken_for(c, labels, teacher, students) for c in every]
    found = []
    for place, c in enumerate(every):
        before, added = taken[place]
        others = [
            float(more.mean()) for _, more in taken[:place] + taken[place + 1 :] if more.numel()
        ]
        usual = sum(others) / len(others) if others else 0.0
        rising = _ratio(_middle(added) - usual, _error(added.mean(0)))
        about = (before, _by_seed(added), rising)
        found.append(_group(f"class {c}", "class", labels == c, right, lost, about))
    for name, mask in slices.items():
        before, added = _over_classes(labels[mask], teacher[mask], students[:, mask])
        _, beside = _over_classes(labels[~mask], teacher[~mask], students[:, ~mask])
        error = math.hypot(_error(added.mean(0)), _error(beside.mean(0)))
        rising = _ratio(_middle(added) - _middle(beside), error)
        about = (before, _by_seed(added), rising)
        found.append(_group(name, "slice", mask, right, lost, about))
    return found


def _taken_for(c: int, labels: Tensor, teacher: Tensor, students: Tensor) -> tuple[float, Tensor]:
    """The teacher's false positives of a class; by how much each sample of others changes them."""
    others = labels != c
    before, after = (teacher == c)[others].double(), (students == c)[:, others].double()
    return _middle(before), after - before


def _over_classes(labels: Tensor, teacher: Tensor, students: Tensor) -> tuple[float, Tensor]:
    """Of a slice: the teacher's false positives, mean over its classes; and what each sample adds.

    A sample of class y that is taken for c adds 1 / (samples of other classes than c) to the rate
    of c; scaled so that the mean over the samples is the change of the mean rate.
    """
    if not len(labels):
        return 0.0, students.double()
    size = int(max(labels.max(), teacher.max(), students.max())) + 1
    every, counts = torch.unique(labels, return_counts=True)
    shares = torch.zeros(size).double()
    shares[every] = 1 / (len(labels) - counts).double()
    shares[shares.isinf()] = 0.0  # of a class that is alone: there is nothing to be taken for it
    weight = len(labels) / len(every)
    before, after = ((x != labels) * shares[x] * weight for x in (teacher, students))
    return _middle(before), after - before


def _group(  # noqa: PLR0913  (what a group is made of)
    name: str,
    kind: str,
    mask: Tensor,
    right: Tensor,
    lost: Tensor,
    about: tuple[float, list[float], float],
) -> Group:
    inside, outside = lost[:, mask], lost[:, ~mask]
    error = math.hypot(_error(inside.mean(0)), _error(outside.mean(0)))
    beyond = _ratio(_middle(inside) - _middle(outside), error)
    teacher = _middle(right[mask].double())
    return Group(name, kind, int(mask.sum()), teacher, _by_seed(inside), beyond, *about)


def _middle(values: Tensor) -> float:
    return float(values.mean()) if values.numel() else 0.0


def _by_seed(values: Tensor) -> list[float]:
    return [_middle(one) for one in values]


def _error(values: Tensor) -> float:
    """Standard error of the mean of samples."""
    return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def _ratio(value: float, error: float) -> float:
    return value / error if error else 0.0


def follows(found: Sequence[Group], whole: Sequence[float]) -> list[str]:
    """What the figures say: of all samples, and of every group that loses beyond chance."""
    texts = [f"over all samples students have {_mean(whole):.2%} less right than the teacher"]
    sure = NormalDist().inv_cdf(1 - LEVEL / max(len(found), 1))
    classes = _of(found, "class")
    right = sum(g.size * g.teacher for g in classes) / max(sum(g.size for g in classes), 1)
    named = 0
    for one in found:
        drop, rise = _mean(one.drop), _mean(one.rise)
        if one.beyond > sure and drop > 0:
            named += 1
            how = "amplified" if one.teacher < right else "new"
            text = (
                f"{one.name} loses {drop:.2%}, more than the others by {one.beyond:.1f} standard "
            )
            text += f"errors: {how}, the teacher has {one.teacher:.1%} of it right and {right:.1%} "
            texts.append(f"{text}of all")
        if one.rising > sure and rise > 0:
            named += 1
            what = "more samples are taken for it" if one.kind == "class" else "false positives"
            text = (
                f"{one.name}: {what}, {one.false_positives:.2%} before and {rise:+.2%}, more than "
            )
            texts.append(f"{text}elsewhere by {one.rising:.1f} standard errors")
    if not named:
        text = f"none of {len(found)} classes and slices loses more than the others, or is taken "
        texts.append(f"{text}for them more often, by {sure:.1f} standard errors")
    return texts


def _answers(study: Study, graph: Graph) -> Tensor:
    """What a graph answers to the test part, i64[n]; -1 where it has no answer."""
    from compressc.ir import lower
    from compressc.tasks.answers import chosen

    task, module = study.task, lower(graph).eval()
    found = []
    with torch.no_grad():
        for batch in study.data.test.batches(SAMPLES):
            output = task.outputs(module(*batch.inputs))[task.output]
            found.append(chosen(task.judged, output))
    return torch.cat(found)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _of(found: Sequence[Group], kind: str) -> list[Group]:
    return [one for one in found if one.kind == kind]


_COLUMNS: tuple[tuple[str, str, Any], ...] = (
    ("size", "samples", ""),
    ("teacher", "teacher right", "%"),
    ("drop", "drop", "points"),
    ("beyond", "beyond the others, standard errors", ""),
    ("false positives", "teacher's false positives", "%"),
    ("rise", "change", "points"),
    ("rising", "beyond the others, standard errors", ""),
)


def _table(found: Sequence[Group], kind: str) -> Table:
    columns = [Column(name=name, title=title, unit=unit) for name, title, unit in _COLUMNS]
    rows = [
        Row(
            name=one.name,
            figures={
                "size": [one.size],
                "teacher": [one.teacher],
                "drop": [*one.drop],
                "beyond": [one.beyond],
                "false positives": [one.false_positives],
                "rise": [*one.rise],
                "rising": [one.rising],
            },
        )
        for one in _of(found, kind)
    ]
    title = "Classes" if kind == "class" else "Slices"
    return Table(title=title, head=kind, columns=columns, rows=rows)


def _picture(found: Sequence[Group], kind: str) -> Picture:
    shown = _of(found, kind)
    lines = [
        Line(name="drop", x=[[*one.drop] for one in shown], y=[]),
        Line(name="change of false positives", x=[[*one.rise] for one in shown], y=[], colour=1),
    ]
    return Picture(
        title=f"What each {kind} pays",
        form="rows",
        x="points",
        x_unit="%",
        lines=lines,
        names=[one.name for one in shown],
    )
