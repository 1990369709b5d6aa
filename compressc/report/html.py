"""The record of a run as one HTML file: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compressc.report.atomic import write_text
from compressc.report.record import Record

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATE = "report.html"


def write_html(record: Record, path: str | Path) -> None:
    """Write the report; the file appears whole or not at all.

    Raises:
        CompresscError: CC600 where the folder cannot be written.
    """
    write_text(Path(path), html(record))


def environment() -> Environment:
    """Templates beside this file; what is put into them is escaped, and must be there."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def html(record: Record) -> str:
    """The report as HTML text. Every name in it is escaped."""
    from compressc.report import charts, text
    from compressc.report.exits import exits
    from compressc.report.sensitivity import sensitivities
    from compressc.report.warnings import warnings

    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            record=record,
            text=text,
            quality=charts.quality(record),
            cost=charts.cost(record),
            files=charts.files(record),
            latency=charts.latency(record),
            sensitivities=sensitivities(record),
            exits=exits(record),
            figures=text.headline(record),
            warnings=warnings(record),
            passed=text.shown(record, record.passes),
            filed=text.shown(record, record.files),
            unequal=text.unequal(record),
            counted=any(file.int8_layers for file in record.files),
            groups=text.grouped_notes(record),
        )
    )
