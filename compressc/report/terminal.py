"""The record of a run as tables on a terminal of 80 columns or more, with or without colour.

Only ASCII is printed besides the table rules (which rich replaces where the terminal has none), so
that a log file or a C locale shows the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compressc.backend.file_record import LatencyRecord, Scored
from compressc.measure.latency import Spread
from compressc.report import text
from compressc.report.record import Record
from compressc.report.warnings import warnings
from compressc.tasks import Metric

if TYPE_CHECKING:
    from rich.table import Table

    from compressc.report.console import Console

#: Below this many columns, what is least needed is left out.
WIDE = 110
#: Op names shown for one reason; the HTML report shows all.
NAMES = 8


def render(record: Record, console: Console) -> None:
    """Print the tables: passes, files, latency; then the passes' notes and what failed."""
    wide = console.width >= WIDE
    from rich.text import Text

    figures = (f"{figure.value} {figure.label}" for figure in text.headline(record))
    if line := "; ".join(figures):
        console.print(Text(line, style="bold"))
    for line in warnings(record):
        console.print(Text(f"warning: {line}", style="bold yellow"))
    if record.task is not None:
        console.print(Text(text.task(record.task), style="dim"))
    console.print()
    console.print(_passes(record, wide), "")
    if _many(record):
        console.print(_scores(record), "")
    if record.files:
        console.print(_files(record, wide), "")
    if any(file.latency for file in record.files):
        console.print(_latency(record, wide), "")
    _notes(record, console)
    _failures(record, console)


def _table(title: str, *columns: tuple[str, str]) -> Table:
    """Columns are pairs of header and `left` or `right`."""
    from rich import box
    from rich.table import Table

    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        caption_style="dim",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for header, justify in columns:
        right = justify == "right"
        # only the first column may wrap: a broken number is misread
        table.add_column(
            header,
            justify="right" if right else "left",
            no_wrap=right,
            overflow="fold",
        )
    return table


def _row(table: Table, *cells: str, style: str = "", last: str = "") -> None:
    """A row in `style` whose last cell has the style `last`."""
    from rich.text import Text

    table.add_row(*cells[:-1], Text(cells[-1], style=last), style=style)


def _passes(record: Record, wide: bool) -> Table:
    metrics = _beside(record, record.passes)
    columns = [("step", "left"), ("parameters", "right"), ("MACs", "right")]
    columns += [(text.title(metric), "right") for metric in metrics]
    columns += [("time", "right")]
    table = _table("Passes", *columns, *([("effect", "left"), ("edits", "left")] if wide else []))
    teacher = record.teacher
    name = Path(teacher.source).name  # a row has no room for a path
    cells = [f"teacher: {name}", text.count(teacher.parameters), text.count(teacher.macs)]
    cells += [text.score(metric, teacher.scores.get(metric.name)) for metric in metrics]
    _row(table, *cells, text.NONE, *([text.NONE] * 2 if wide else []), style="dim")
    for entry in record.passes:
        cells = [text.step(entry), text.count(entry.parameters), text.count(entry.macs)]
        cells += [_score(metric, entry, record) for metric in metrics]
        cells += [text.time_of(entry)]
        _row(table, *cells, *([entry.effect, text.edits(entry)] if wide else []))
    table.caption = text.sizes(record)
    return table


def _many(record: Record) -> bool:
    """Whether the scores have a table of their own: beside sizes there is room for two."""
    return len(text.shown(record, record.passes)) + text.unequal(record) > 2


def _beside(record: Record, entries: Sequence[Scored]) -> list[Metric]:
    """The scores that are shown beside sizes: all, or the first where there are many."""
    return text.shown(record, entries)[: 1 if _many(record) else None]


def _scores(record: Record) -> Table:
    """Every score of the teacher, after each pass, and of each file."""
    metrics = text.shown(record, record.passes)
    columns = [("", "left"), *((text.title(metric), "right") for metric in metrics)]
    table = _table("Scores", *columns, *[("worst class", "right")] * text.unequal(record))
    rows: list[tuple[str, Scored]] = [(text.step(entry), entry) for entry in record.passes]
    rows += [(f"{file.format} file", file) for file in record.files]
    cells = [text.score(metric, record.teacher.scores.get(metric.name)) for metric in metrics]
    _row(table, "teacher", *cells, *[text.NONE] * text.unequal(record), style="dim")
    for name, entry in rows:
        cells = [_score(metric, entry, record) for metric in metrics]
        _row(table, name, *cells, *[text.worst_class(record, entry)] * text.unequal(record))
    return table


def _score(metric: Metric, entry: Scored, record: Record) -> str:
    value = entry.scores.get(metric.name)
    change = text.change(metric, value, record.teacher.scores.get(metric.name))
    return text.score(metric, value) + (f" ({change})" if change else "")


def _files(record: Record, wide: bool) -> Table:
    metrics = _beside(record, record.files)
    table = _table(
        "Files, beside the teacher in the same format",
        ("format", "left"),
        *([("path", "left")] if wide else []),
        ("teacher", "right"),
        ("result", "right"),
        ("smaller", "right"),
        *((text.title(metric), "right") for metric in metrics),
        ("proof", "right"),
    )
    for file in record.files:
        before = text.NONE if file.teacher_bytes is None else text.size(file.teacher_bytes)
        _row(
            table,
            file.format,
            *([file.path] if wide else []),
            before,
            text.size(file.bytes),
            text.smaller(file),
            *(text.score(metric, file.scores.get(metric.name)) for metric in metrics),
            text.proof(file),
        )
    lines = ["proof: largest difference of the file's outputs from the graph's"]
    lines += [f"{f.format}: {line}" for f in record.files if (line := text.integers(f))]
    table.caption = "\n".join(lines)
    return table


def _latency(record: Record, wide: bool) -> Table:
    table = _table(
        "Latency of one batch in the same runtime, median ms",
        ("runtime", "left"),
        ("precision", "left"),
        ("batch", "right"),
        ("threads", "right"),
        ("teacher", "right"),
        ("result", "right"),
        ("speed-up", "right"),
    )
    for file in record.files:
        for entry in file.latency:
            _row(
                table,
                entry.runtime,
                entry.precision,
                str(entry.batch),
                str(entry.threads),
                _milliseconds(entry.teacher, wide),
                _milliseconds(entry.result, wide),
                text.speedup(entry),
                last=_verdict(entry),
            )
    machine = f"on {record.machine.get('cpu', 'an unknown processor')}"
    table.caption = f"speed-up: of the fastest samples, median (10th-90th percentile), {machine}"
    return table


def _milliseconds(spread: Spread, wide: bool) -> str:
    median, low, high = map(text.milliseconds, (spread.median_ms, spread.low_ms, spread.high_ms))
    return f"{median} ({low}-{high})" if wide else median


def _verdict(entry: LatencyRecord) -> str:
    """Coloured only where something is claimed."""
    return {"faster": "green", "slower": "red"}.get(entry.verdict, "")


def _notes(record: Record, console: Console) -> None:
    from rich.padding import Padding
    from rich.text import Text

    groups = text.grouped_notes(record)
    if not groups:
        return
    console.print(Text("What was done and what was skipped, and why", style="bold"))
    for group in groups:
        times = f" (x{len(group.ops)})" if len(group.ops) > 1 else ""
        names = group.names(NAMES)
        line = f"{group.step}: {group.text}{times}" + (f": {names}" if names else "")
        console.print(Padding(Text(line), (0, 0, 0, 2)))
    console.print()


def _failures(record: Record, console: Console) -> None:
    from rich.padding import Padding
    from rich.text import Text

    if not record.failures:
        return
    console.print(Text("Failed", style="bold red"))
    for failure in record.failures:
        code = f"[{failure.code}] " if failure.code else ""
        line = f"{failure.stage}: {code}{failure.message}"
        console.print(Padding(Text(line, style="red"), (0, 0, 0, 2)))
    console.print()
