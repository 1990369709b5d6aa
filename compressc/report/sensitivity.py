"""A chart of what cutting each part of a model alone loses, as passes put it on record."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from compressc.report.charts import WIDTH
from compressc.report.record import Record
from compressc.report.svg import CHARACTER, Svg, shorten

#: Parts that are drawn at most, those that lose most.
MOST = 30
#: The least loss that is drawn apart, as a share of the largest.
FLOOR = 1e-3
#: Units of a row, of the column of shares, and of the gaps.
ROW, COLUMN, GAP = 22.0, 92.0, 18.0


class Part(BaseModel):
    """One row of the record `sensitivity`; what else is in it is not looked at."""

    model_config = ConfigDict(frozen=True)

    made_by: list[str] = Field(alias="made by")
    what: str = ""
    size: int = Field(gt=0)
    shares: list[float]
    loss: list[float | None]
    kept: int

    @property
    def name(self) -> str:
        """The ops that make the width: the first, and how many more; and what of them."""
        first, *more = self.made_by or ["?"]
        text = f"{first} +{len(more)}" if more else first
        return text if self.what in ("", "channels") else f"{text}, {self.what}"

    @property
    def points(self) -> list[tuple[float, float]]:
        """(share that is cut, rise of the loss) of those that were measured."""
        pairs = zip(self.shares, self.loss, strict=False)
        return [(share, max(loss, 0.0)) for share, loss in pairs if loss is not None]

    @property
    def worst(self) -> float:
        """The largest rise."""
        return max((loss for _, loss in self.points), default=0.0)


@dataclass(frozen=True)
class Sensitivity:
    """The picture of one pass, and its title."""

    svg: Svg
    title: str


def sensitivities(record: Record) -> list[Sensitivity]:
    """A picture for each pass that measured it."""
    found = []
    for entry in record.passes:
        parts = _parts(entry.records.get("sensitivity"))
        if parts:
            found.append(_drawn(parts, entry.name))
    return found


def _parts(rows: Any) -> list[Part]:
    """Those rows that are what we draw: another plugin may use the name for something else."""
    return list(_read(rows)) if isinstance(rows, list) else []


def _read(rows: Sequence[Any]) -> Iterator[Part]:
    for row in rows:
        try:
            yield Part.model_validate(row)
        except ValidationError:
            continue


def _drawn(parts: Sequence[Part], name: str) -> Sensitivity:
    ranked = sorted(parts, key=lambda part: -part.worst)
    shown, rest = ranked[:MOST], len(ranked[MOST:])
    label = min(max(len(part.name) for part in shown) * CHARACTER + 10, 200.0)
    room = WIDTH - label - COLUMN - 2 * GAP
    bottom = ROW * len(shown) + 16
    title = "Rise of the loss where each width is cut alone, and how much of it was kept"
    svg = Svg(WIDTH, bottom + 24 + (18 if rest else 0), title)
    most = max(shown[0].worst, 1e-12)
    low, high = math.log10(most * FLOOR), math.log10(most)

    def place(loss: float) -> float:
        return label + room * (math.log10(max(loss, most * FLOOR)) - low) / (high - low)

    for power in range(math.ceil(low), math.floor(high) + 1):
        x = place(10.0**power)
        svg.line(x, 6, x, bottom, "grid")
        svg.text(x, bottom + 16, f"{10.0**power:g}", "muted", "middle")
    left = label + room + GAP
    svg.line(left, 6, left, bottom, "grid")
    svg.text(left, bottom + 16, "kept", "muted")
    for index, part in enumerate(shown):
        y = index * ROW + 18
        svg.text(label - 8, y + 4, shorten(part.name, label - 8), "", "end")
        if part.points:
            xs = [place(loss) for _, loss in part.points]
            svg.line(min(xs), y, max(xs), y, "link")
        for share, loss in part.points:
            svg.dot(place(loss), y, "result", f"{share:.0%} cut: {loss:.3g}", 2 + 4 * share)
        kept = part.kept / part.size
        hint = f"{part.kept} of {part.size} kept"
        svg.bar((left + 1, y - 6), ((COLUMN - 36) * kept, 12), "second", hint)
        svg.text(left + 5 + (COLUMN - 36) * kept, y + 4, f"{kept:.0%}", "value")
    if rest:
        svg.text(label, bottom + 36, f"and {rest} more that lose less", "muted")
    return Sensitivity(svg, f"What cutting each width alone loses ({name})")
