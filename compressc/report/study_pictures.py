"""Pictures of a study: lines over an axis, and rows of figures with their range over the seeds."""

from __future__ import annotations

import math

from compressc.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, ticks
from compressc.report.study_record import Line, Picture, known, middle
from compressc.report.svg import CHARACTER, Svg, shorten

#: Styles of the report, by colour.
COLOURS = ("result", "second", "warn", "good", "bad", "teacher")
#: Units of a row of `rows`, and of one more line in it.
ROW, MORE = 24.0, 10.0


def style(line: Line) -> str:
    """Of a line and its dots."""
    return COLOURS[line.colour % len(COLOURS)]


def drawn(picture: Picture) -> Svg:
    """The picture."""
    return _rows(picture) if picture.form == "rows" else _lines(picture)


class _Axis:
    """Numbers to places.

    Args:
        values: what must have room.
        start, end: places of its ends.
        scale: what numbers are shown times.
        logarithmic: for numbers above 0.
    """

    def __init__(
        self, values: list[float], start: float, end: float, scale: float, logarithmic: bool
    ) -> None:
        self.start, self.end, self.scale, self.logarithmic = start, end, scale, logarithmic
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        if logarithmic:
            self.ticks = sorted(set(values))
            low, high = math.log(low), math.log(high)
        pad = max((high - low) * 0.06, 1e-9 if high > low else 0.5 / scale)
        self.low, self.high = low - pad, high + pad
        if not logarithmic:
            self.ticks = [t / scale for t in ticks(self.low * scale, self.high * scale)]

    def __call__(self, value: float) -> float:
        at = math.log(value) if self.logarithmic else value
        return self.start + (at - self.low) / (self.high - self.low) * (self.end - self.start)


def _lines(picture: Picture) -> Svg:
    unit = f"{picture.y}, %" if picture.y_unit else picture.y
    svg = Svg(WIDTH, HEIGHT + 18, f"{picture.title}: {unit} by {picture.x}")
    pairs = [_points(line) for line in picture.lines]
    spread = [value for line in picture.lines for values in line.y for value in known(values)]
    scales = [100.0 if unit else 1.0 for unit in (picture.x_unit, picture.y_unit)]
    xs = [x for points in pairs for x, _, _ in points]
    across = _Axis(xs, LEFT, WIDTH - RIGHT, scales[0], picture.logarithmic)
    up = _Axis(spread, HEIGHT - BOTTOM, TOP, scales[1], False)
    for tick in up.ticks:
        svg.line(LEFT, up(tick), WIDTH - RIGHT, up(tick), "grid")
        svg.text(LEFT - 6, up(tick) + 4, f"{tick * scales[1]:.4g}", "muted", "end")
    for tick in across.ticks:
        svg.text(across(tick), HEIGHT - BOTTOM + 18, f"{tick * scales[0]:.4g}", "muted", "middle")
    named = f"{picture.x}, %" if picture.x_unit else picture.x
    svg.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT + 12, named, "muted", "middle")
    svg.text(4, 14, unit, "muted")
    for line, points in zip(picture.lines, pairs, strict=True):
        kind = style(line) + (" dashed" if line.dashed else " whole")
        svg.path([(across(x), up(y)) for x, y, _ in points], kind)
        for x, y, values in points:
            low, high = min(values), max(values)
            if high > low:
                svg.line(across(x), up(low), across(x), up(high), f"{style(line)} whisker")
            hint = f"{line.name}: {y * scales[1]:.4g} ({low * scales[1]:.4g}-"
            svg.dot(across(x), up(y), style(line), f"{hint}{high * scales[1]:.4g})", 3)
    return svg


def _points(line: Line) -> list[tuple[float, float, list[float]]]:
    """(place, mean, all seeds) of those points that are there."""
    found = []
    for at, values in zip(line.x, line.y, strict=True):
        x, y = middle(at), middle(values)
        if x is not None and y is not None:
            found.append((x, y, known(values)))
    return found


def _rows(picture: Picture) -> Svg:
    row = ROW + MORE * (len(picture.lines) - 1)
    bottom = row * len(picture.names) + 10
    svg = Svg(WIDTH, bottom + 40, f"{picture.title}: {picture.x}")
    label = min(max(map(len, picture.names), default=1) * CHARACTER + 10, 250.0)
    scale = 100.0 if picture.x_unit else 1.0
    values = [value for line in picture.lines for at in line.x for value in known(at)]
    signed = min(values, default=0.0) < 0
    across = _Axis(values + [0.0] * signed, label, WIDTH - RIGHT, scale, False)
    for tick in across.ticks:
        svg.line(across(tick), 6, across(tick), bottom, "grid" if tick else "link")
        svg.text(across(tick), bottom + 16, f"{tick * scale:.4g}", "muted", "middle")
    named = f"{picture.x}, %" if picture.x_unit else picture.x
    svg.text((label + WIDTH - RIGHT) / 2, bottom + 34, named, "muted", "middle")
    for index, name in enumerate(picture.names):
        y = index * row + 20
        svg.text(label - 8, y + 4, shorten(name, label - 8), "", "end")
        for place, line in enumerate(picture.lines):
            there, at = known(line.x[index]), y + MORE * place
            if not there:
                continue
            mean = sum(there) / len(there)
            svg.line(across(min(there)), at, across(max(there)), at, f"{style(line)} whisker")
            svg.dot(across(mean), at, style(line), f"{line.name}: {mean * scale:.4g}")
    return svg
