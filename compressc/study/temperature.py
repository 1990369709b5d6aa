"""What the temperature of a loss is worth: the same training at each of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING

from compressc.errors import CompresscError
from compressc.report.study_record import Column, Line, Picture, Row, StudyRecord, Table, known
from compressc.study.running import Study, scores_of

if TYPE_CHECKING:
    from compressc.report.record import Record

#: Stands in a list of passes where a temperature goes.
PLACE = "{T}"


@dataclass(frozen=True)
class Tried:
    """The runs at one temperature, by seed: scores on held-out samples and on the test part."""

    at: float
    held_out: list[float | None]
    score: list[float]
    agreement: list[float | None]


def temperature(study: Study, passes: str, values: Sequence[float]) -> StudyRecord:
    """Run a list of passes at each temperature.

    The best one is told by the samples that trainings hold out, and shown on the test part.

    Args:
        study: the model, its data and the seeds.
        passes: with `{T}` where the temperature goes: `distill(temperature={T})`.
        values: two or more, above 0.

    Raises:
        CompresscError: CC100 where there is no such place, or fewer values.
    """
    values = sorted(set(values))
    if PLACE not in passes:
        hint = "--passes 'distill(temperature={T})', or kd(T={T}) in a loss"
        raise CompresscError("CC100", f"passes with {PLACE} in them", got=passes, hint=hint)
    if len(values) < 2 or values[0] <= 0:
        got = ", ".join(f"{value:g}" for value in values) or "none"
        raise CompresscError("CC100", "two temperatures or more, above 0", got=got)
    found = []
    for value in values:
        text = passes.replace(PLACE, f"{value:g}")
        records = [study.run(text, seed).report for seed in study.seeds]
        scores, agreements = zip(*map(scores_of, records), strict=True)
        found.append(Tried(value, [_held_out(r) for r in records], [*scores], [*agreements]))
    rows = [
        Row(
            name=f"T={one.at:g}",
            figures={"held": one.held_out, "score": [*one.score], "agreement": one.agreement},
        )
        for one in found
    ]
    names = (("held", "held-out score"), ("score", "score"), ("agreement", "agreement"))
    columns = [Column(name=name, title=title) for name, title in names]
    table = Table(title=f"By temperature: {passes}", head="temperature", columns=columns, rows=rows)
    return study.record("temperature", follows(found), [table], [_picture(found)])


def follows(found: Sequence[Tried]) -> list[str]:
    """What the figures say: the best temperature by held-out samples, and whether it matters."""
    judged = [(mean(known(one.held_out)), one) for one in found if known(one.held_out)]
    texts = []
    if judged:
        top = max(score for score, _ in judged)
        best = [one for score, one in judged if score == top]
        names = " and ".join(f"T={one.at:g}" for one in best)
        shown = ", ".join(f"{mean(one.score):.2%}" for one in best)
        does = "does" if len(best) == 1 else "do"
        text = f"{names} {does} best on held-out samples ({top:.2%}); on the test part {shown}"
        texts.append(text)
    means = {one.at: mean(one.score) for one in found}
    low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    half = max((max(one.score) - min(one.score)) / 2 for one in found)
    gap = means[high] - means[low]
    text = f"on the test part T={low:g} is lowest and T={high:g} highest, {gap:.2%} apart; "
    if len(found[0].score) == 1:
        return [*texts, f"{text}one seed tells of no spread"]
    text += f"seeds of one temperature are up to {half:.2%} off its mean"
    texts.append(text if gap > 2 * half else f"{text}: no temperature stands out")
    return texts


def _held_out(record: Record) -> float | None:
    for entry in reversed(record.passes):
        training = entry.records.get("training")
        if isinstance(training, dict) and "metric" in training:
            best: float | None = training["best"][1]
            return best
    return None


def _picture(found: Sequence[Tried]) -> Picture:
    at: list[list[float | None]] = [[one.at] for one in found]
    lines = [
        Line(name="score", x=at, y=[[*one.score] for one in found]),
        Line(name="agreement", x=at, y=[one.agreement for one in found], colour=1, dashed=True),
        Line(name="held-out score", x=at, y=[one.held_out for one in found], colour=5),
    ]
    there = [line for line in lines if any(map(known, line.y))]
    title = "Scores by temperature"
    return Picture(title=title, x="temperature", y="share", logarithmic=True, lines=there)
