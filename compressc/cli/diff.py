"""`compressc diff model.pt out/graph`: what makes two models different."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compressc.cli.model_options import (
    DataOption,
    ModelOptions,
    load_from_options,
    open_optional,
)
from compressc.cli.sizes import BatchOption, SizeOption, open_sizes_of, sizes_text
from compressc.cli.spreading import spread

if TYPE_CHECKING:
    from rich.table import Table

    from compressc.analysis import Difference, Row
    from compressc.data import Dataset
    from compressc.ir import Graph

_FORMS = "a model file or folder, an output folder, or graph text (out/passes/01-prune.txt)"


@spread
def diff(  # noqa: PLR0913  (each is an option of the command line)
    before: Annotated[str, typer.Argument(help=f"The first: {_FORMS}.")],
    after: Annotated[str, typer.Argument(help="The second, in any of these forms.")],
    *,
    data: DataOption = None,
    given: ModelOptions,
    batch: BatchOption = 1,
    size: SizeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    every: Annotated[
        bool, typer.Option("--all", help="One row for each change, also in repeated blocks.")
    ] = False,
) -> int:
    """Say what makes two models different: ops added, removed, replaced, resized, retrained.

    Ops are matched by what they descend from, or by name. Exit code 0: equal; 1: different.
    """
    from compressc.analysis import difference

    dataset = open_optional(data)
    graphs = [_read(path, given, dataset) for path in (before, after)]
    sizes = open_sizes_of(graphs, batch, size)
    found = difference(graphs[0], graphs[1], **sizes)
    if as_json:
        typer.echo(json.dumps(_record(found, before, after, sizes), indent=1))
    else:
        _print(found, (before, after), sizes, every)
    return 0 if found.equal else 1


def _read(path: str, given: ModelOptions, dataset: Dataset | None) -> Graph:
    """A graph from a model in any form, or from graph text, which has no weights."""
    place = Path(path)
    if (place / "graph" / "graph.txt").is_file():
        place = place / "graph"
    if place.is_file():
        with place.open("rb") as file:
            if file.read(6) == b"graph ":
                return _read_text(place)
    return load_from_options(str(place), given, dataset).graph


def _read_text(path: Path) -> Graph:
    from compressc.ir import parse_graph, verify

    graph = parse_graph(path.read_text(encoding="utf-8", errors="replace"))
    verify(graph)
    return graph


# ---- rendering ---------------------------------------------------------------------------------


def _record(found: Difference, before: str, after: str, sizes: dict[str, int]) -> dict[str, Any]:
    changes = [asdict(change) for change in found.changes]
    for change in changes:
        del change["place"]
    totals = {
        "before": {**asdict(found.cost_before), "peak_activation_bytes": found.peak_before},
        "after": {**asdict(found.cost_after), "peak_activation_bytes": found.peak_after},
    }
    return {
        "before": before,
        "after": after,
        "equal": found.equal,
        "sizes": sizes,
        "ops": {"before": found.ops[0], "after": found.ops[1], "same": found.same},
        "outputs_differ": found.outputs_differ,
        "totals": totals,
        "changes": changes,
    }


def _print(found: Difference, names: tuple[str, str], sizes: dict[str, int], every: bool) -> None:
    from compressc.report.console import Console

    console = Console()
    first, second = found.ops
    console.print(f"before: {names[0]} ({first} ops)")
    console.print(f"after:  {names[1]} ({second} ops)")
    if found.equal:
        console.print("no difference")
        return
    console.print(f"{found.same} of {first} ops are as they were")
    if found.outputs_differ:
        console.print("the outputs are other values than before")
    rows = found.rows(every=every)
    heavy = [row for row in rows if row.weighs]
    if heavy:
        console.print(_table(heavy, sizes))
    for row in rows:
        if not row.weighs:
            console.print(_line(row))
    console.print(_totals(found, sizes))


def _table(rows: list[Row], sizes: dict[str, int]) -> Table:
    from rich.table import Table

    table = Table(title=f"changed ops; costs {sizes_text(sizes)}".strip(), title_justify="left")
    table.add_column("change")
    table.add_column("op", overflow="fold", ratio=3)
    table.add_column("what", overflow="fold", ratio=4)
    for name in ("parameters", "MACs"):
        table.add_column(name, justify="right")
    for row in rows:
        times = f" (x{row.count})" if row.count > 1 else ""
        what = "\n".join(filter(None, (row.kind, row.detail)))
        numbers = [
            _step(row.cost_before.parameters, row.cost_after.parameters),
            _step(row.cost_before.macs, row.cost_after.macs),
        ]
        table.add_row(row.status, row.name + times, what, *numbers)
    return table


def _line(row: Row) -> str:
    """`resized  relu: 9 ops, relu ..`: an op that costs nothing by itself."""
    if row.count == 1:
        detail = f", {row.detail}" if row.detail else ""
        return f"{row.status:<9} {row.name} ({row.kind}{detail})"
    return f"{row.status:<9} {row.count} x {row.kind} ({row.name})"


def _totals(found: Difference, sizes: dict[str, int]) -> Table:
    from rich.table import Table

    table = Table(title=f"in all {sizes_text(sizes)}".strip(), title_justify="left")
    table.add_column("")
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right")
    before, after = found.cost_before, found.cost_after
    lines = [
        ("parameters", before.parameters, after.parameters),
        ("bytes", before.bytes, after.bytes),
        ("MACs", before.macs, after.macs),
        ("peak activation bytes", found.peak_before, found.peak_after),
    ]
    for name, old, new in lines:
        table.add_row(name, f"{old:,}", f"{new:,}", _percent(old, new))
    return table


def _step(before: int, after: int) -> str:
    return f"{before:,}" if before == after else f"{before:,}\n-> {after:,}"


def _percent(before: int, after: int) -> str:
    if before == after:
        return "same"
    return f"{100 * (after - before) / before:+.1f} %" if before else f"+{after:,}"
