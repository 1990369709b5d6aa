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
        found += _hidden_falls(record)
    found += [f"{entry.text} changed nothing" for entry in record.passes if entry.idle]
    return found


def _worthless(record: Record, metric: Metric, constant: float | None) -> list[str]:
    """A main score that the same answer for every sample would get, too."""
    results = text.final_scores(record, metric.name)
    if constant is None or not results:
        return []
    if constant >= 1 and metric.drop == "points":
        return [f"one answer is right for every sample: {metric.title} says nothing"]
    same = f"the same answer for every sample gets {text.with_unit(metric, constant)}"
    own, worst = record.teacher.scores.get(metric.name), text.worst(metric, results)
    if own is not None and _near(metric, own, constant):
        return [f"the teacher's {metric.title} is {text.with_unit(metric, own)}; {same}"]
    if _near(metric, worst, constant):
        return [f"the result is lost: {metric.title} {text.with_unit(metric, worst)}; {same}"]
    return []


def _near(metric: Metric, value: float, constant: float) -> bool:
    """Whether a score is not a tenth of the way from a constant answer's to a perfect one."""
    perfect = 1.0 if metric.drop == "points" else 0.0
    way, whole = value - constant, perfect - constant
    return not (way >= _NOTHING * whole if metric.better == "higher" else way <= _NOTHING * whole)


def _hidden_falls(record: Record) -> list[str]:
    """The class that a file lost behind a good mean."""
    falls = (text.fall(record, entry) for entry in text.final_entries(record))
    hidden = [fall for fall in falls if fall is not None and fall.hidden]
    if not hidden:
        return []
    worst = max(hidden, key=lambda fall: fall.drop)
    return [
        f"class {worst.index} falls by {worst.drop * 100:.1f} points ({worst.labels} labels), "
        f"where all labels fall by {worst.mean * 100:.1f}: the score over all hides it"
    ]
