"""What one should know before any figure of a record."""

from __future__ import annotations

from compressc.report import text
from compressc.report.record import Record
from compressc.tasks import Metric

#: Share of the way from a constant answer to a perfect one below which a score says nothing.
_NOTHING = 0.1


def warnings(record: Record) -> list[str]:
    """What one should know before any figure, one sentence each."""
    found = []
    if record.task is not None:
        if (metric := record.task.primary) is not None:
            found += _worthless(record, metric, record.task.constant.get(metric.name))
        found += record.task.warnings
    found += [f"{entry.text} changed nothing" for entry in record.passes if entry.idle]
    return found


def _worthless(record: Record, metric: Metric, constant: float | None) -> list[str]:
    """A main score that the same answer for every sample would get, too."""
    results = text.final_scores(record, metric.name)
    if constant is None or not results:
        return []
    if constant >= 1:
        return [f"one answer is right for every sample: {metric.title} says nothing"]
    same = f"the same answer for every sample gets {text.with_unit(metric, constant)}"
    own, worst = record.teacher.scores.get(metric.name), min(results)
    if own is not None and _near(own, constant):
        return [f"the teacher's {metric.title} is {text.with_unit(metric, own)}; {same}"]
    if _near(worst, constant):
        return [f"the result is lost: {metric.title} {text.with_unit(metric, worst)}; {same}"]
    return []


def _near(value: float, constant: float) -> bool:
    """All metrics with a constant are 1 where they are perfect."""
    return not value - constant >= _NOTHING * (1 - constant)
