"""The record of a study: many runs side by side, as figures by seed, with what follows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean
from typing import ClassVar, Literal

from pydantic import AwareDatetime, Field

from compressc.backend.file_record import Frozen
from compressc.report.record import DataRecord, now
from compressc.report.stored import Stored

#: Grows with every change of the fields below.
STUDY_SCHEMA = 1
#: A figure by seed; None where it could not be had.
BySeed = list[float | None]


def known(values: Sequence[float | None]) -> list[float]:
    """Those that are there."""
    return [value for value in values if value is not None and math.isfinite(value)]


def middle(values: Sequence[float | None]) -> float | None:
    """Mean of those that are there."""
    there = known(values)
    return mean(there) if there else None


class Line(Frozen):
    """A line of a picture: one point for each place, seeds on top of one another."""

    name: str
    #: Where the points are, by point and then by seed; one number where it is the same for all.
    x: list[BySeed]
    #: By point, then by seed.
    y: list[BySeed]
    #: Of the colours of the report: runs that belong together have the same.
    colour: int = 0
    dashed: bool = False


class Picture(Frozen):
    """Lines over an axis, or a row for each name."""

    title: str
    form: Literal["lines", "rows"] = "lines"
    x: str
    y: str = ""
    #: Figures in `%` are shares, and shown times 100.
    x_unit: Literal["%", ""] = ""
    y_unit: Literal["%", ""] = "%"
    logarithmic: bool = False
    lines: list[Line]
    #: Of `rows`: what each is, in order; lines have a point for each.
    names: list[str] = Field(default_factory=list)


class Column(Frozen):
    """What a figure of a table is."""

    name: str
    title: str
    unit: Literal["%", "points", ""] = "%"


class Row(Frozen):
    """A line of a table."""

    name: str
    figures: dict[str, BySeed]
    #: In words, after the figures.
    remark: str = ""


class Table(Frozen):
    """Figures by seed."""

    title: str
    head: str
    columns: list[Column]
    rows: list[Row]


class StudyRecord(Stored):
    """A whole study."""

    title: ClassVar[str] = "study record"
    newest: ClassVar[int] = STUDY_SCHEMA

    schema_version: int = STUDY_SCHEMA
    study: Literal["fidelity", "temperature", "bias", "order"]
    compressc_version: str
    created: AwareDatetime = Field(default_factory=now)
    command: str
    seeds: list[int]
    versions: dict[str, str]
    machine: dict[str, str | int]
    source: str
    teacher_sha256: str
    #: Scores of the teacher on the test part.
    teacher: dict[str, float]
    data: DataRecord
    #: What follows, a sentence each.
    findings: list[str]
    tables: list[Table]
    pictures: list[Picture]
    wall_seconds: float
