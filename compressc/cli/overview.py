"""What `compressc inspect` prints: a summary, the repeated blocks, what the ops cost."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from compressc.cli.sizes import sizes_text

if TYPE_CHECKING:
    from rich.table import Table

    from compressc.analysis import Block, Overview
    from compressc.frontend import Loaded

#: Graphs of more ops are printed as text on demand only.
SHORT = 100
_MOST_KINDS = 4
_MOST_ALIVE = 3
_MARGIN = " " * 9


def show_overview(
    loaded: Loaded, sizes: Mapping[str, int], *, text: bool | None, every: bool, as_json: bool
) -> None:
    """Print a model.

    Args:
        loaded: the model.
        sizes: of the open dimensions, which numbers are given for.
        text: print the graph as text; by default if it is short.
        every: give each op a row of its own.
        as_json: print JSON instead.
    """
    from compressc.analysis import overview
    from compressc.report.console import Console

    graph = loaded.graph
    found = overview(graph, every=every, **sizes)
    if as_json:
        typer.echo(json.dumps(_record(loaded, found, sizes), indent=1))
        return
    console = Console()
    for title, line in _summary(loaded, found, sizes):
        typer.echo(_wrapped(title, line, console.width))
    if len(graph) <= SHORT if text is None else text:
        typer.echo(f"\n{graph}")
    if found.blocks:
        console.print(_block_table(found.blocks))
    console.print(_cost_table(found, sizes))
    if text is None and len(graph) > SHORT:
        console.print(f"--text prints the graph, {len(graph)} lines")


def _wrapped(title: str, line: str, width: int) -> str:
    """The line behind its title; further lines of it stand below."""
    text = textwrap.wrap(line, max(40, width - len(_MARGIN)), break_long_words=False)
    return f"{title:<{len(_MARGIN)}}" + f"\n{_MARGIN}".join(text)


def _summary(loaded: Loaded, found: Overview, sizes: Mapping[str, int]) -> list[tuple[str, str]]:
    from compressc.analysis import formula_text

    graph, cost, peak = loaded.graph, found.cost, found.peak
    at = sizes_text(sizes)
    lines = [("model", f"{loaded.source} ({loaded.format})")]
    lines += [
        ("input" if not i else "", f"{op.name}: {op.type}") for i, op in enumerate(graph.inputs)
    ]
    lines += [
        ("output" if not i else "", f"{name}: {graph[name].type}")
        for i, name in enumerate(dict.fromkeys(graph.output_names))
    ]
    lines += [
        ("ops", f"{found.ops:,}: {_kinds('layers', found.layers)}"),
        ("", _kinds("ATen calls left", found.calls)),
        ("weights", f"{cost.parameters:,} parameters, {cost.bytes:,} bytes{_types(found)}"),
        ("MACs", _formula(formula_text(found.formula.macs), f"{cost.macs:,}", at)),
    ]
    lines += [
        (
            "",
            f"not counted: {kind} x{len(names)} ({names[0]}, ..)"
            if len(names) > 1
            else f"not counted: {kind} ({names[0]})",
        )
        for kind, names in found.not_counted.items()
    ]
    formula = None if found.peak_formula is None else formula_text(found.peak_formula)
    alive = [f"{name} {size:,}" for name, size in peak.alive[:_MOST_ALIVE]]
    more = len(peak.alive) - len(alive)
    return [
        *lines,
        ("peak", "activation bytes " + _formula(formula or "", f"{peak.bytes:,}", at)),
        ("", f"in {peak.op}, with {', '.join(alive)}" + (f" and {more} more" if more else "")),
    ]


def _formula(formula: str, number: str, at: str) -> str:
    """`14*b = 28 at b=2`; the number alone where they are the same or there is no formula."""
    return (
        number if formula in ("", number) and not at else f"{formula} = {number} {at}".strip(" =")
    )


def _kinds(what: str, kinds: Mapping[str, int]) -> str:
    """`27 layers (batch_norm2d x10, relu x9, ..)`."""
    texts = [f"{kind} x{count}" for kind, count in list(kinds.items())[:_MOST_KINDS]]
    more = [".."] if len(kinds) > _MOST_KINDS else []
    inside = f" ({', '.join(texts + more)})" if texts else ""
    return f"{sum(kinds.values()):,} {what}{inside}"


def _block_table(blocks: list[Block]) -> Table:
    from rich.table import Table

    from compressc.analysis import formula_text

    table = Table(title="repeated blocks", title_justify="left")
    table.add_column("block", overflow="fold")
    for name in ("count", "ops each", "parameters", "MACs"):
        table.add_column(name, justify="right", overflow="fold")
    depth: dict[str, int] = {"": -1}
    for block in blocks:
        depth[block.name] = depth[block.parent] + 1
        name = "  " * depth[block.name] + block.name.removeprefix(f"{block.parent}.")
        numbers = (block.count, len(block.members[0]), block.parameters)
        texts = [*(f"{number:,}" for number in numbers), formula_text(block.macs)]
        table.add_row(name, *texts)
    return table


def _cost_table(found: Overview, sizes: Mapping[str, int]) -> Table:
    from rich.table import Table

    table = Table(title=f"cost {sizes_text(sizes)}".strip(), title_justify="left")
    table.add_column("op", overflow="fold")
    table.add_column("kind", overflow="fold")
    for name in ("parameters", "bytes", "MACs"):
        table.add_column(name, justify="right")
    for row in found.rows:
        times = f" (x{row.count})" if row.count > 1 else ""
        table.add_row(row.name + times, row.kind, *_numbers(row.cost))
    table.add_section()
    table.add_row(f"all {found.ops:,} ops", "", *_numbers(found.cost))
    return table


def _types(found: Overview) -> str:
    """Bytes by the type of the numbers, where any are of 8 bits or less."""
    from compressc.analysis.stored import types_text

    small = [name for name in found.bytes_by_type if name in ("i4", "u4", "i8", "u8")]
    return f" ({types_text(found.bytes_by_type)})" if small else ""


def _numbers(cost: Any) -> list[str]:
    return [f"{n:,}" for n in (cost.parameters, cost.bytes, cost.macs)]


def _record(loaded: Loaded, found: Overview, sizes: Mapping[str, int]) -> dict[str, Any]:
    graph = loaded.graph
    formulas = {"macs": found.formula.macs, "activation_bytes": found.formula.activation_bytes}
    formulas["peak_activation_bytes"] = found.peak_formula
    return {
        "model": loaded.source,
        "format": loaded.format,
        "inputs": {op.name: str(op.type) for op in graph.inputs},
        "outputs": {name: str(graph[name].type) for name in graph.output_names},
        "ops": {"layers": found.layers, "calls": found.calls, "held_tensors": found.tensors},
        "sizes": dict(sizes),
        "cost": asdict(found.cost) | {"peak_activation_bytes": found.peak.bytes},
        "bytes_by_type": found.bytes_by_type,
        "formulas": {name: None if f is None else str(f) for name, f in formulas.items()},
        "peak": asdict(found.peak),
        "not_counted": found.not_counted,
        "blocks": [asdict(block) | {"macs": str(block.macs)} for block in found.blocks],
        "rows": [asdict(row) for row in found.rows],
    }
