"""Charts of a record: quality and size along the passes, files, latency by batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from compressc.backend.file_record import LatencyRecord
from compressc.report import text
from compressc.report.record import Record
from compressc.report.svg import CHARACTER, Point, Svg, shorten
from compressc.tasks import Metric

WIDTH, HEIGHT = 560.0, 260.0
LEFT, RIGHT, TOP, BOTTOM = 44.0, 14.0, 24.0, 34.0


@dataclass(frozen=True)
class Quality:
    """Scores along the passes: the picture, its title, and (style, name) of each line."""

    svg: Svg
    title: str
    legend: list[tuple[str, str]]


def quality(record: Record) -> Quality | None:
    """The main score and the next of its unit after each pass, as lines; None without any."""
    shown = text.shown(record, record.passes)
    metrics = [metric for metric in shown if _scale_of(metric) == _scale_of(shown[0])][:2]
    labels = ["teacher", *(entry.name for entry in record.passes)]
    lines = {
        metric: [entry.scores.get(metric.name) for entry in (record.teacher, *record.passes)]
        for metric in metrics
    }
    scale = 100 if metrics and metrics[0].unit == "%" else 1
    values = [value for line in lines.values() for value in line if value is not None]
    known = [value * scale for value in values if math.isfinite(value)]
    if not known:
        return None
    kinds = dict(zip(metrics, ("result", "second"), strict=False))
    unit = ", %" if scale == 100 else ""
    named = " and ".join(metric.title for metric in metrics)
    svg = Svg(WIDTH, HEIGHT, f"{named} after each pass{unit}")
    most = scale if metrics[0].drop == "points" else math.inf
    low, high = bounds(min(known), max(known), most)
    for tick in ticks(low, high):
        y = _scale(tick, low, high)
        svg.line(LEFT, y, WIDTH - RIGHT, y, "grid")
        svg.text(LEFT - 6, y + 4, f"{tick:g}", "muted", "end")
    _labels(svg, labels)
    for metric in reversed(metrics):  # the main one is drawn on top
        points = [
            (_center(i, len(labels)), _scale(value * scale, low, high), value)
            for i, value in enumerate(lines[metric])
            if value is not None and math.isfinite(value)
        ]
        _line(svg, points, metric, kinds[metric])
    return Quality(svg, f"Quality after each pass{unit}", [(kinds[m], m.title) for m in metrics])


def _scale_of(metric: Metric) -> tuple[str, str, str]:
    """Metrics are drawn together where these are the same."""
    return metric.unit, metric.drop, metric.name if metric.drop == "relative" else ""


def _line(svg: Svg, points: list[tuple[float, float, float]], metric: Metric, kind: str) -> None:
    """A line with dots; the main one has its values beside them."""
    svg.path([(x, y) for x, y, _ in points], kind)
    heights = [y for _, y, _ in points]
    for index, (x, y, value) in enumerate(points):
        svg.dot(x, y, kind, text.with_unit(metric, value))
        if kind == "result":
            around = heights[max(index - 1, 0) : index + 2]
            below = y > max(around) - 1 and y > min(heights) + 40
            svg.text(x, y + 19 if below else y - 9, text.score(metric, value), "value", "middle")


def bounds(low: float, high: float, most: float) -> Point:
    """Some room around the values; none above a perfect score, nor below 0 unless a value is."""
    pad = max((high - low) * 0.15, 0.005 * (most if math.isfinite(most) else abs(high)), 1e-6)
    return max(low - pad, min(low, 0.0)), min(high + pad, most)


def ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers in between."""
    raw = (high - low) / 4
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _scale(value: float, low: float, high: float) -> float:
    return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - BOTTOM - TOP)


def _center(index: int, count: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (index + 0.5) / count


def _labels(svg: Svg, labels: list[str]) -> None:
    room = (WIDTH - LEFT - RIGHT) / len(labels)
    for index, label in enumerate(labels):
        x = _center(index, len(labels))
        svg.text(x, HEIGHT - BOTTOM + 20, shorten(label, room - 12), "muted", "middle")


def cost(record: Record) -> Svg | None:
    """Parameters and MACs after each pass as a share of the teacher's, as bars."""
    teacher = record.teacher
    if not record.passes or not teacher.parameters:
        return None
    svg = Svg(WIDTH, HEIGHT, "Parameters and MACs after each pass, in percent of the teacher's")
    steps = [("teacher", teacher.parameters, teacher.macs)]
    steps += [(entry.name, entry.parameters, entry.macs) for entry in record.passes]
    top = max(100.0, *(p / teacher.parameters * 100 for _, p, _ in steps)) * 1.08
    for tick in ticks(0, top):
        y = _scale(tick, 0, top)
        svg.line(LEFT, y, WIDTH - RIGHT, y, "grid")
        svg.text(LEFT - 6, y + 4, f"{tick:g}", "muted", "end")
    _labels(svg, [name for name, _, _ in steps])
    bar = min((WIDTH - LEFT - RIGHT) / len(steps) * 0.34, 34.0)
    for index, (_, parameters, macs) in enumerate(steps):
        x = _center(index, len(steps))
        pairs = [(x - bar, parameters, teacher.parameters, "result", "parameters")]
        pairs += [(x, macs, teacher.macs, "second", "MACs")] * bool(teacher.macs)
        for left, value, whole, kind, unit in pairs:
            y = _scale(min(value / whole * 100, top), 0, top)
            hint = f"{text.count(value)} {unit}"
            svg.bar((left + 1, y), (bar - 2, HEIGHT - BOTTOM - y), kind, hint)
            if bar > 26:
                svg.text(left + bar / 2, y - 4, f"{value / whole * 100:.0f}", "value", "middle")
    return svg


def files(record: Record) -> Svg | None:
    """Bytes on disk of the teacher and of the result in each format, as bars."""
    if not record.files:
        return None
    row, label = 52.0, 84.0
    svg = Svg(WIDTH, row * len(record.files) + 8, "Bytes on disk by format")
    largest = max(max(file.bytes, file.teacher_bytes or 0) for file in record.files) or 1
    room = WIDTH - label - 170
    for index, file in enumerate(record.files):
        y = index * row + 8
        svg.text(label - 10, y + 24, shorten(file.format, label - 10), "", "end")
        bars = [(y + 21, file.bytes, "result", f", {text.smaller(file)} smaller")]
        if file.teacher_bytes is not None:
            bars.append((y, file.teacher_bytes, "teacher", ""))
        else:
            bars[0] = (y + 21, file.bytes, "result", "")
        for top, value, kind, remark in bars:
            width = value / largest * room
            svg.bar((label, top), (width, 17), kind, f"{value} bytes")
            svg.text(label + width + 7, top + 13, text.size(value) + remark, "value")
    return svg


def latency(record: Record) -> Svg | None:
    """Latency of teacher and result by runtime and batch, as dots on a logarithmic axis.

    A thin line spans the 10th to the 90th percentile.
    """
    entries = [entry for file in record.files for entry in file.latency]
    if not entries:
        return None
    row = 26.0
    names = [f"{e.runtime}, {e.precision}, batch {e.batch}" for e in entries]
    label = min(max(map(len, names)) * CHARACTER + 8, 240.0)
    svg = Svg(WIDTH, row * len(entries) + 46, "Latency of teacher and result by batch")
    values = [v for e in entries for s in (e.teacher, e.result) for v in (s.low_ms, s.high_ms)]
    low, high = math.log10(min(values)) - 0.1, math.log10(max(values)) + 0.1
    room = WIDTH - label - 62

    def place(milliseconds: float) -> float:
        return label + (math.log10(milliseconds) - low) / (high - low) * room

    bottom = row * len(entries) + 14
    for power in range(math.ceil(low), math.floor(high) + 1):
        x = place(10.0**power)
        svg.line(x, 6, x, bottom, "grid")
        svg.text(x, bottom + 16, f"{10.0**power:g} ms", "muted", "middle")
    for index, (name, entry) in enumerate(zip(names, entries, strict=True)):
        y = index * row + 20
        svg.text(label - 8, y + 4, shorten(name, label - 8), "", "end")
        _dumbbell(svg, entry, y, place(entry.teacher.median_ms), place(entry.result.median_ms))
        for spread, kind in ((entry.teacher, "teacher"), (entry.result, "result")):
            x = place(spread.median_ms)
            svg.line(place(spread.low_ms), y, place(spread.high_ms), y, f"{kind} whisker")
            svg.dot(x, y, kind, f"{text.milliseconds(spread.median_ms)} ms", 5)
    return svg


def _dumbbell(svg: Svg, entry: LatencyRecord, y: float, teacher: float, result: float) -> None:
    svg.line(teacher, y, result, y, "link")
    style = "slower" if entry.verdict == "slower" else "value"
    claimed = entry.verdict in ("faster", "slower")
    svg.text(WIDTH - 4, y + 4, text.ratio(entry.speedup) if claimed else text.NONE, style, "end")
