"""The record of a study as one HTML file."""

from __future__ import annotations

from pathlib import Path

from compressc.report.atomic import write_text
from compressc.report.html import environment
from compressc.report.study_record import BySeed, Column, StudyRecord, known
from compressc.report.text import NONE


def write_study(record: StudyRecord, path: str | Path) -> None:
    """Write the page; the file appears whole or not at all.

    Raises:
        CompresscError: CC600 where the folder cannot be written.
    """
    from compressc.report import text
    from compressc.report.study_pictures import drawn, style

    page = environment().get_template("study.html")
    html = page.render(record=record, text=text, drawn=drawn, style=style, cell=cell)
    write_text(Path(path), html)


def cell(column: Column, values: BySeed) -> str:
    """Mean, and half of the range where there are several seeds: `98.15 ± 0.20`."""
    there = known(values)
    if not there:
        return NONE
    scale = 100.0 if column.unit else 1.0
    mean, half = sum(there) / len(there), (max(there) - min(there)) / 2
    sign = "+" if column.unit == "points" else ""
    digits = ".2f" if column.unit else ".3g"
    shown = f"{mean * scale:{sign}{digits}}"
    return f"{shown} ± {half * scale:{digits}}" if len(there) > 1 else shown
