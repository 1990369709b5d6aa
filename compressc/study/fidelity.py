"""Does a student that answers more like its teacher also do better? Over the epochs of trainings.

Stanton et al. 2021 (arXiv 2106.05945) tell the two apart: fidelity, and generalization.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Any

from compressc.errors import CompresscError
from compressc.report.study_record import (
    BySeed,
    Column,
    Line,
    Picture,
    Row,
    StudyRecord,
    Table,
    known,
)
from compressc.study.running import Study, scores_of

if TYPE_CHECKING:
    from compressc.report.record import Record


@dataclass(frozen=True)
class Course:
    """A training on its held-out samples, and its result on the test part.

    Attributes:
        score, agreement: before training, then after each epoch.
        tested: score and agreement of the result on the test part.
    """

    score: list[float]
    agreement: list[float]
    tested: tuple[float, float | None]

    @classmethod
    def of(cls, record: Record) -> Course:
        """Of the last pass that trained by a teacher.

        Raises:
            CompresscError: CC105 where none did.
        """
        for entry in reversed(record.passes):
            training = entry.records.get("training")
            if isinstance(training, dict) and len(training.get("scores", ())) > 1:
                rows = [training["start"], *(epoch["score"] for epoch in training["history"])]
                score, alike = ([_number(row[place]) for row in rows] for place in (1, 2))
                return cls(score, alike, scores_of(record))
        raise CompresscError(
            "CC105",
            "a study of fidelity needs a pass that trains by a teacher and is judged by labels",
            got=", ".join(entry.text for entry in record.passes),
            hint="--passes distill",
        )

    @property
    def correlation(self) -> float | None:
        """Of score and agreement over the epochs; None where one of them does not change."""
        return correlation(self.score[1:], self.agreement[1:])

    @property
    def apart(self) -> bool:
        """Whether the epoch of the best score is none of those of the best agreement."""
        pairs = list(zip(self.score, self.agreement, strict=True))
        return (max(self.score), max(self.agreement)) not in pairs


def correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Pearson's, of two rows of equal length; None where one is constant or has a gap."""
    if len(a) < 3 or not all(map(math.isfinite, (*a, *b))):
        return None
    ours, theirs = ([x - mean(row) for x in row] for row in (a, b))
    length = math.sqrt(sum(x * x for x in ours) * sum(y * y for y in theirs))
    return sum(x * y for x, y in zip(ours, theirs, strict=True)) / length if length else None


def fidelity(study: Study, lists: Sequence[str]) -> StudyRecord:
    """Score and agreement with the teacher after each epoch of the last training of each list.

    Args:
        study: the model, its data and the seeds.
        lists: of passes; a list with a loss of labels alone tells what agreement comes from being
            right.

    Raises:
        CompresscError: CC105 for a list without a training by a teacher.
    """
    found = {
        passes: [Course.of(study.run(passes, seed).report) for seed in study.seeds]
        for passes in lists
    }
    names = _letters(list(found))
    rows = [
        Row(name=_called(names[passes], passes, " = "), figures=_figures(courses))
        for passes, courses in found.items()
    ]
    percent = [("score", "score"), ("agreement", "agreement"), ("held out", "held-out agreement")]
    columns = [Column(name=name, title=title) for name, title in percent]
    columns.append(Column(name="r", title="correlation over epochs", unit=""))
    table = Table(title="Results on the test part", head="passes", columns=columns, rows=rows)
    named = {names[passes]: courses for passes, courses in found.items()}
    texts = [text for name, courses in named.items() for text in _follows(name, courses)]
    between = _between(named)
    return study.record("fidelity", texts + between, [table], _pictures(named))


def _letters(lists: Sequence[str]) -> dict[str, str]:
    """A letter for each list of passes, which is too long to stand in a picture; none for one."""
    return {passes: chr(ord("A") + i) if len(lists) > 1 else "" for i, passes in enumerate(lists)}


def _called(name: str, text: str, between: str) -> str:
    """`A, score`, or `score` of a list without a letter."""
    return f"{name}{between}{text}" if name else text


def _figures(courses: Sequence[Course]) -> dict[str, Any]:
    return {
        "score": [course.tested[0] for course in courses],
        "agreement": [course.tested[1] for course in courses],
        "held out": [course.agreement[-1] for course in courses],
        "r": [course.correlation for course in courses],
    }


def _follows(name: str, courses: Sequence[Course]) -> list[str]:
    first, last = (
        [mean(of(course)[place] for course in courses) for of in (_score, _agreement)]
        for place in (0, -1)
    )
    text = f"on held-out samples the score went from {first[0]:.1%} to {last[0]:.1%}, "
    text += f"agreement with the teacher from {first[1]:.1%} to {last[1]:.1%}"
    r = known([course.correlation for course in courses])
    if r:
        text += f"; over the epochs they go together with a correlation of {mean(r):.2f}"
    apart = sum(course.apart for course in courses)
    other = (
        f"in {apart} of {len(courses)} trainings the epoch that scores best is not the one that "
    )
    texts = [text, f"{other}agrees best"] if apart else [text]
    return [_called(name, one, ": ") for one in texts]


def _between(found: dict[str, list[Course]]) -> list[str]:
    """What tells two lists apart by more than their seeds do."""
    texts, (first, *others) = [], found
    for other in others:
        for place, what in enumerate(("score", "agreement")):
            a, b = (known([course.tested[place] for course in found[x]]) for x in (first, other))
            if a and b:
                apart = max(a) < min(b) or max(b) < min(a)
                verdict = "with every seed" if apart else "no more than the seeds differ"
                text = (
                    f"{other} has {mean(b) - mean(a):+.1%} {what} on the test part beside {first}"
                )
                texts.append(f"{text}, {verdict}")
    return texts


def _score(course: Course) -> list[float]:
    return course.score


def _agreement(course: Course) -> list[float]:
    return course.agreement


def _pictures(found: dict[str, list[Course]]) -> list[Picture]:
    by_epoch, path = [], []
    for colour, (name, courses) in enumerate(found.items()):
        score, agreement = (_by_epoch(courses, of) for of in (_score, _agreement))
        at: list[BySeed] = [[float(epoch)] for epoch in range(len(score))]
        by_epoch.append(Line(name=_called(name, "score", ", "), x=at, y=score, colour=colour))
        alike = _called(name, "agreement", ", ")
        by_epoch.append(Line(name=alike, x=at, y=agreement, colour=colour, dashed=True))
        path.append(Line(name=name or "epochs", x=score[1:], y=agreement[1:], colour=colour))
    return [
        Picture(title="By epoch, on held-out samples", x="epoch", y="share", lines=by_epoch),
        Picture(
            title="Agreement against score, a dot for each epoch",
            x="score",
            x_unit="%",
            y="agreement with the teacher",
            lines=path,
        ),
    ]


def _by_epoch(courses: Sequence[Course], of: Callable[[Course], list[float]]) -> list[BySeed]:
    """By epoch, then by seed."""
    return [list(values) for values in zip(*map(of, courses), strict=False)]


def _number(value: float | None) -> float:
    return math.nan if value is None else value
