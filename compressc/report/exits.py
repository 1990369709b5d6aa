"""A chart of the score against the time of a sample, by the threshold that samples leave at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from compressc.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, bounds, ticks
from compressc.report.record import Record
from compressc.report.svg import Svg


class Point(BaseModel):
    """A threshold in the record `exits`, or none; what else is in it is not looked at."""

    model_config = ConfigDict(frozen=True)

    threshold: float = 1.0
    score: float
    macs: float
    ms: float | None = None


class Exits(BaseModel):
    """The record `exits`."""

    model_config = ConfigDict(frozen=True)

    title: str
    runtime: str | None = None
    samples: int
    without: Point
    chosen: Point | None = None
    curve: list[Point] = Field(min_length=1)

    @property
    def timed(self) -> bool:
        """Whether every point has a time; else they are drawn over multiply-accumulates."""
        return all(point.ms is not None for point in (self.without, *self.curve))


@dataclass(frozen=True)
class Drawn:
    """The picture of one pass, its title, and (style, name) of what is in it."""

    svg: Svg
    title: str
    legend: list[tuple[str, str]]


def exits(record: Record) -> list[Drawn]:
    """A picture for each pass that added exits."""
    found = ((entry.name, _read(entry.records.get("exits"))) for entry in record.passes)
    return [_drawn(one, name) for name, one in found if one is not None]


def _read(record: Any) -> Exits | None:
    """What is what we draw: another plugin may use the name for something else."""
    try:
        return Exits.model_validate(record)
    except ValidationError:
        return None


def _drawn(one: Exits, name: str) -> Drawn:
    unit = f"ms of a sample in {one.runtime}" if one.timed else "multiply-accumulates of a sample"
    title = f"{one.title[0].upper()}{one.title[1:]} over {unit}, by threshold ({name})"
    svg = Svg(WIDTH, HEIGHT, title)
    points = [one.without, *one.curve]
    places = [_cost(point, one.timed) for point in points]
    scores = [point.score for point in points]
    x_low, x_high = bounds(min(places), max(places), float("inf"))
    y_low, y_high = bounds(min(scores), max(scores), float("inf"))

    def place(point: Point) -> tuple[float, float]:
        x = (_cost(point, one.timed) - x_low) / (x_high - x_low)
        y = (point.score - y_low) / (y_high - y_low)
        return LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - BOTTOM - TOP)

    _axes(svg, (x_low, x_high), (y_low, y_high))
    svg.path([place(point) for point in one.curve], "result")
    for point in one.curve:
        svg.dot(*place(point), "result", _hint(point, one))
    if one.chosen is not None:
        svg.dot(*place(one.chosen), "second", f"taken: {_hint(one.chosen, one)}", 6)
    svg.dot(*place(one.without), "teacher", f"without exits: {_hint(one.without, one)}", 5)
    legend = [("result", "with exits"), ("second", "threshold taken"), ("teacher", "without exits")]
    return Drawn(svg, f"{title}, {one.samples} held-out samples", legend)


def _axes(svg: Svg, xs: Sequence[float], ys: Sequence[float]) -> None:
    for tick in ticks(*ys):
        y = HEIGHT - BOTTOM - (tick - ys[0]) / (ys[1] - ys[0]) * (HEIGHT - BOTTOM - TOP)
        svg.line(LEFT, y, WIDTH - RIGHT, y, "grid")
        svg.text(LEFT - 6, y + 4, f"{tick:g}", "muted", "end")
    for tick in ticks(*xs):
        x = LEFT + (tick - xs[0]) / (xs[1] - xs[0]) * (WIDTH - LEFT - RIGHT)
        svg.text(x, HEIGHT - BOTTOM + 20, f"{tick:g}", "muted", "middle")


def _cost(point: Point, timed: bool) -> float:
    return point.ms if timed and point.ms is not None else point.macs


def _hint(point: Point, one: Exits) -> str:
    spent = f"{point.ms:.3g} ms" if one.timed else f"{point.macs:.3g} MACs"
    return f"threshold {point.threshold:.3g}: {one.title} {point.score:.4f}, {spent}"
