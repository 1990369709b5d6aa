"""Numbers and notes in words, the same on the terminal and in the HTML report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from compressc.backend.file_record import FileRecord, LatencyRecord, Scored
from compressc.measure import Verdict
from compressc.report.record import PassRecord, Record, TaskRecord
from compressc.tasks import Metric

NONE = "-"
#: A class whose drop is that much above the mean of all is lost behind a mean.
FAR = 0.1
_NO_CLAIM = {"same": "no difference measured", "busy": "machine busy"}


def count(value: float) -> str:
    """`950`, `206.9 k`, `1.20 M`, `4.10 G`."""
    return _scaled(value, ("", "k", "M", "G", "T"))


def size(value: float) -> str:
    """Bytes in powers of 1000: `950 B`, `206.9 kB`, `1.20 MB`."""
    return _scaled(value, ("B", "kB", "MB", "GB", "TB"))


def _scaled(value: float, units: Sequence[str]) -> str:
    power = 0
    # 999.95 would round to 1000.0: compare what is printed
    while abs(value) >= 999.5 and power + 1 < len(units):
        value, power = value / 1000, power + 1
    return f"{_three(value) if power else f'{value:.0f}'} {units[power]}".strip()


def _three(value: float) -> str:
    """Three significant digits without an exponent: `0.0123`, `1.23`, `12.3`, `123`."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    rounded = float(f"{value:.2e}")  # first, because 9.999 has one decimal less once it is 10.0
    return f"{rounded:.{max(2 - math.floor(math.log10(abs(rounded))), 0)}f}"


def percent(value: float | None) -> str:
    """A share as a percentage with two decimals and without the sign: `98.15`."""
    return NONE if value is None or math.isnan(value) else f"{value * 100:.2f}"


def score(metric: Metric, value: float | None) -> str:
    """A score as its metric is shown: a share in per cent, any other with four decimals."""
    if metric.unit == "%":
        return percent(value)
    return NONE if value is None or math.isnan(value) else f"{value:.4f}"


def with_unit(metric: Metric, value: float) -> str:
    """`98.15 %`, or `0.9312`."""
    return f"{score(metric, value)} {metric.unit}".strip()


def change(metric: Metric, value: float | None, reference: float | None) -> str:
    """How far a score is from another: in percentage points, or as it is; "" where unknown."""
    if metric.unit == "%":
        return points(value, reference)
    if value is None or reference is None or math.isnan(value - reference):
        return ""
    return f"{value - reference:+.4f}"


def title(metric: Metric) -> str:
    """As the head of a column: `accuracy %`."""
    return f"{metric.title} {metric.unit}".strip()


def points(value: float | None, reference: float | None) -> str:
    """Difference of two shares in percentage points: `-0.37`; "" where one is unknown."""
    if value is None or reference is None or math.isnan(value - reference):
        return ""
    return f"{(value - reference) * 100:+.2f}"


def ratio(value: float) -> str:
    """`0.82x`, `4.05x`, `12.3x`, `123x`."""
    return f"{_times(value)}x"


def _times(value: float) -> str:
    return f"{value:.{2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0}f}"


def milliseconds(value: float) -> str:
    """Three significant digits, so that 0.0213 and 12.3 ms both read well."""
    return _three(value)


def seconds(value: float) -> str:
    """`0.42 s`, `12.3 s`, `3 min 20 s`, `2 h 05 min`."""
    if value < 59.95:
        return f"{value:.{2 if value < 9.995 else 1}f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def task(record: TaskRecord) -> str:
    """`classification, inferred: output 'fc' is judged as class scores: ...`."""
    if not record.name:  # an older manifest
        return record.reason
    return f"{record.text}{'' if record.named else ', inferred'}: {record.reason}"


def sizes(record: Record) -> str:
    """At which sizes of open dimensions MACs are counted: `MACs of one sample at s=128`; or ""."""
    listed = ", ".join(f"{name}={size}" for name, size in record.sizes.items())
    return f"MACs of one sample at {listed}" if listed else ""


def smaller(file: FileRecord) -> str:
    """How many times smaller than the teacher: `7.8x`."""
    if file.teacher_bytes is None:
        return NONE
    return ratio(file.teacher_bytes / max(file.bytes, 1))


def speedup(entry: LatencyRecord) -> str:
    """`3.10x (2.95-3.31)`: median, 10th and 90th percentile; or that nothing is claimed."""
    return claim(entry.speedup, entry.speedup_low, entry.speedup_high, entry.verdict)


def claim(median: float, low: float, high: float, verdict: Verdict) -> str:
    """A ratio of two latencies, as `speedup` has it."""
    if verdict in _NO_CLAIM:
        return _NO_CLAIM[verdict]
    return f"{ratio(median)} ({_times(low)}-{_times(high)})"


def integers(file: FileRecord) -> str:
    """`51 of 53 layers in int8; in float: a, b (its weight is float)`, and what that needs."""
    found, parts = file.int8_layers, []
    if found is not None:
        parts.append(f"{found.ran} of {found.of} layers in int8")
        reasons: dict[str, list[str]] = {}
        for layer in found.left:
            reasons.setdefault(layer.reason, []).append(layer.op)
        parts += [f"in float: {_few(ops)} ({reason})" for reason, ops in reasons.items()]
    if file.gains is not None:
        parts.append(file.gains.outcome)
    if file.needs:
        parts.append(f"needs {file.needs}")
    return "; ".join(parts)


def int8_count(file: FileRecord) -> str:
    """`51 of 53`; a dash where the runtime has no integer kernels."""
    found = file.int8_layers
    return f"{found.ran} of {found.of}" if found is not None else NONE


def _few(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} others" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def proof(file: FileRecord) -> str:
    """`max 2.1e-06`, the largest difference from the graph, or that there is no proof."""
    return "not proved" if file.proof is None else f"max {file.proof.max_abs_error:.1e}"


def time_of(entry: PassRecord) -> str:
    """Time of a pass, or that its result was at hand."""
    return "cached" if entry.cached else seconds(entry.seconds)


def step(entry: PassRecord) -> str:
    """The pass as the user wrote it, and for whom it is where nobody did."""
    return entry.text + (f" [for {entry.inserted_for}]" if entry.inserted_for else "")


def edits(entry: PassRecord) -> str:
    """`12 set_layer, 3 erase`, or that nothing was edited."""
    made = [f"{number} {kind}" for kind, number in entry.edits.items() if number]
    return ", ".join(made) or "none"


@dataclass(frozen=True)
class Group:
    """Notes of one pass with one text."""

    step: str
    text: str
    ops: tuple[str, ...]

    def names(self, limit: int | None = None) -> str:
        """The ops, at most `limit` by name and the others counted."""
        named = [op for op in self.ops if op]
        if limit is None or len(named) <= limit:
            return ", ".join(named)
        return f"{', '.join(named[:limit])} and {len(named) - limit} more"


def grouped_notes(record: Record) -> list[Group]:
    """Notes with the same text once for the model and each pass, the most frequent first."""
    groups = []
    steps = [("model", record.teacher.notes), *((p.name, p.notes) for p in record.passes)]
    for step, notes in steps:
        by_text: dict[str, list[str]] = {}
        for note in notes:
            by_text.setdefault(note.text, []).append(note.op)
        ranked = sorted(by_text.items(), key=lambda item: -len(item[1]))
        groups += [Group(step, text, tuple(ops)) for text, ops in ranked]
    return groups


@dataclass(frozen=True)
class Figure:
    """One headline number."""

    label: str
    value: str
    detail: str


def headline(record: Record) -> list[Figure]:
    """Size, speed and the main score in one number each; a range where the files differ."""
    found = []
    sizes = [f.teacher_bytes / max(f.bytes, 1) for f in record.files if f.teacher_bytes is not None]
    if sizes:
        detail = "bytes on disk, teacher / result, same format"
        found.append(Figure("smaller", _span(sizes), detail))
    found += _speed([entry for file in record.files for entry in file.latency])
    metric = None if record.task is None else record.task.primary
    if metric is not None and (results := final_scores(record, metric.name)):
        found.append(_main_score(metric, record.teacher.scores.get(metric.name), results))
    found += [Figure("changed nothing", p.name, p.text) for p in record.passes if p.idle]
    return found


def _speed(entries: Sequence[LatencyRecord]) -> list[Figure]:
    """The ratios that hold; where none does, what was found instead."""
    detail = "latency, teacher / result, same runtime"
    claims = [entry.speedup for entry in entries if entry.verdict not in _NO_CLAIM]
    if claims:
        left = len(entries) - len(claims)
        detail += f"; {left} of {len(entries)} without a claim" if left else ""
        return [Figure("speed-up", _span(claims), detail)]
    if any(entry.verdict == "same" for entry in entries):
        return [Figure("in latency", "no difference measured", detail)]
    return [Figure("to compare latency", "machine too busy", detail)] if entries else []


def shown(record: Record, entries: Sequence[Scored]) -> list[Metric]:
    """The metrics that any of the entries has a score of."""
    metrics = [] if record.task is None else record.task.metrics
    return [metric for metric in metrics if any(metric.name in e.scores for e in entries)]


def unequal(record: Record) -> bool:
    """Whether classes are shown one by one beside the scores."""
    return record.task is not None and record.task.unequal and bool(record.teacher.recalls)


@dataclass(frozen=True)
class Fall:
    """The class that lost most against the teacher.

    Attributes:
        index: which class.
        drop: of the share of its labels that is met, in 0..1.
        mean: of that drop over all labels, as accuracy has it.
        labels: how many it has.
    """

    index: int
    drop: float
    mean: float
    labels: int

    @property
    def hidden(self) -> bool:
        """Whether it falls by far more than all labels do, and not by a single one."""
        return self.drop - self.mean > FAR and self.drop * self.labels > 1.5


def fall(record: Record, entry: Scored) -> Fall | None:
    """The class that fell most; None where classes are not known."""
    teacher, counts = record.teacher.recalls, record.task.classes if record.task else []
    if not teacher or len(entry.recalls) != len(teacher):
        return None
    drops = {
        index: before - after
        for index, (before, after) in enumerate(zip(teacher, entry.recalls, strict=True))
        if before is not None and after is not None
    }
    if len(drops) < 2:
        return None
    index = max(drops, key=lambda at: drops[at])
    mean = sum(drops[at] * counts[at] for at in drops) / sum(counts[at] for at in drops)
    return Fall(index, drops[index], mean, counts[index])


def worst_class(record: Record, entry: Scored) -> str:
    """`-40.00 (class 3)`: the change of the class that fell most; a dash where none is known."""
    found = fall(record, entry)
    return NONE if found is None else f"{-found.drop * 100:+.2f} (class {found.index})"


def final_entries(record: Record) -> list[Scored]:
    """The files, or the last pass where there are none."""
    return [*record.files] or [*record.passes[-1:]]


def final_scores(record: Record, name: str) -> list[float]:
    """A score of each file, or of the last pass where there are none."""
    files = [file.scores[name] for file in record.files if name in file.scores]
    return files or [entry.scores[name] for entry in record.passes[-1:] if name in entry.scores]


def worst(metric: Metric, values: Sequence[float]) -> float:
    """The worst of some scores."""
    return max(values) if metric.better == "lower" else min(values)


def _main_score(metric: Metric, teacher: float | None, results: Sequence[float]) -> Figure:
    """The worst of the results: against the teacher's own score where it has one."""
    last = worst(metric, results)
    which = "worst file, " if len(results) > 1 else ""
    if teacher is None:
        label = f"{metric.unit} {metric.title}".strip()
        return Figure(label, score(metric, last), f"{which}{metric.text}")
    detail = f"{which}{with_unit(metric, teacher)} to {with_unit(metric, last)}"
    label = f"points of {metric.title}" if metric.unit else metric.title
    return Figure(label, change(metric, last, teacher), detail)


def _span(values: Sequence[float]) -> str:
    low, high = ratio(min(values)), ratio(max(values))
    return low if low == high else f"{low.removesuffix('x')} to {high}"
