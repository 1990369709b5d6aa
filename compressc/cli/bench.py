"""`compressc bench out/`: which of the files is the fastest here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compressc.cli.run import FolderArgument, ThreadsOption
from compressc.cli.sizes import batch_sizes

if TYPE_CHECKING:
    from compressc.measure import Energy, Speedup
    from compressc.written import FirstAnswer, Raced


def bench(  # noqa: PLR0913  (each is an option of the command line)
    folder: FolderArgument,
    data: Annotated[
        str | None, typer.Option("--data", help="Samples to time with; random if not given.")
    ] = None,
    part: Annotated[str, typer.Option(help="Part of divided data: train, calibration, test.")] = "",
    batches: Annotated[str, typer.Option(help="Batch sizes.")] = "1,32",
    threads: ThreadsOption = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time the files of an output folder side by side, each in its own runtime.

    A file is called faster where the range of its speed-up allows it, and the machine was calm.
    """
    from compressc.data import open_part
    from compressc.written import Written, example_of, first_answer, race

    sizes = batch_sizes(batches) or [1]
    written = Written.read(folder)
    inputs = None
    if data is not None:
        source = written.samples(open_part(data, part), data)
        inputs = source.take(max(sizes)).inputs
    example = example_of(written, inputs, 1)
    first = {file.format: first_answer(file, example, threads) for file in written.files}
    rows = race(written, inputs, sizes, threads)
    if as_json:
        typer.echo(json.dumps([_facts(row, first[row.format]) for row in rows], indent=2))
    else:
        _render(rows, first, threads)


def _facts(row: Raced, first: FirstAnswer) -> dict[str, Any]:
    return {
        "format": row.format,
        "runtime": row.runtime,
        "batch": row.batch,
        "latency": row.latency.model_dump(exclude={"samples"}),
        "energy": row.energy.model_dump(),
        "speedup": None if row.speedup is None else row.speedup.model_dump(),
        "fastest": row.fastest,
        "first_answer_s": first.seconds,
        "memory_bytes": first.bytes,
    }


def _render(rows: Sequence[Raced], first: Mapping[str, FirstAnswer], threads: int) -> None:
    from rich.table import Table

    from compressc.report import text
    from compressc.report.console import Console

    console = Console()
    reference = rows[0].format
    plural = "s" if threads > 1 else ""
    table = Table(title=f"Files side by side, {threads} thread{plural}", title_justify="left")
    table.add_column("file")
    columns = ("batch", "ms (10-90 %)", f"times {reference}", "mJ", "first answer", "memory")
    for name in columns:
        table.add_column(name, justify="right", overflow="fold")
    for row in rows:
        spread, begun = row.latency, first[row.format]
        table.add_row(
            row.format,
            str(row.batch),
            f"{text.milliseconds(spread.median_ms)} "
            f"({text.milliseconds(spread.low_ms)}-{text.milliseconds(spread.high_ms)})",
            _gain(row.speedup),
            text.milliseconds(1e3 * row.energy.joules),
            text.seconds(begun.seconds),
            text.NONE if begun.bytes is None else text.size(begun.bytes),
        )
    table.caption = f"mJ: energy of one batch, {_how(rows[0].energy)}"
    table.caption_justify = "left"
    console.print(table)
    for batch in dict.fromkeys(row.batch for row in rows):
        best = next((row for row in rows if row.batch == batch and row.fastest), None)
        said = f"{best.format} is the fastest" if best else "no file is measurably the fastest"
        console.print(f"batch {batch}: {said}")


def _how(energy: Energy) -> str:
    from compressc.measure import WATTS_PER_CORE

    if energy.how == "measured":
        return "measured by the processor's meter (RAPL), with all that it did meanwhile"
    watts = f"{WATTS_PER_CORE:g} W for a busy core"
    return f"an estimate: processor time at {watts}; no meter can be read here"


def _gain(speedup: Speedup | None) -> str:
    from compressc.report import text

    if speedup is None:
        return text.NONE
    return text.claim(speedup.ratio, speedup.low, speedup.high, speedup.verdict)
