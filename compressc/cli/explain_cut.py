"""`compressc explain-cut model.pt --channel conv1:3`: what goes with that channel."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from compressc.cli.model_options import (
    DataOption,
    ModelArgument,
    ModelOptions,
    load_from_options,
    open_optional,
)
from compressc.cli.spreading import spread

if TYPE_CHECKING:
    from rich.table import Table

    from compressc.analysis import CutTogether
    from compressc.analysis.together import Place
    from compressc.report.console import Console

ChannelOption = Annotated[
    str, typer.Option("--channel", help="An op that makes channels, and which one: conv1:3.")
]
#: Indices of a dimension that are listed; of more the first and the last are.
_LISTED = 8


@spread
def explain_cut(
    model: ModelArgument,
    *,
    channel: ChannelOption,
    data: DataOption = None,
    given: ModelOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what must be cut together with one channel: ops, tensors, dimensions and indices."""
    from compressc.analysis import cut_together, symbolize_widths
    from compressc.report.console import Console

    name, index = _channel(channel)
    loaded = load_from_options(model, given, open_optional(data))
    symbolize_widths(loaded.graph)
    found = cut_together(loaded.graph, name, index)
    if as_json:
        typer.echo(json.dumps([asdict(reading) for reading in found], indent=1))
        return
    console = Console()
    for reading in found:
        _print(console, reading)


def _channel(text: str) -> tuple[str, int]:
    """`conv1:3` as a name and a number.

    Raises:
        CompresscError: CC100 for anything else.
    """
    from compressc.errors import CompresscError

    name, _, number = text.rpartition(":")
    if not name or not number.isdecimal():
        raise CompresscError("CC100", "a channel is written OP:NUMBER, conv1:3", got=text)
    return name, int(number)


def _print(console: Console, reading: CutTogether) -> None:
    state = f"cannot be cut: {reading.reason}" if reading.reason else "goes with all of this"
    console.print(f"{reading.what}: {state}")
    if reading.normalized:
        text = f"%{reading.normalized} takes a norm or mean over it: prune(normalized=True) cuts it"
        console.print(text)
    console.print(_table(reading.places))


def _table(places: Sequence[Place]) -> Table:
    from rich.table import Table

    table = Table()
    table.add_column("op", overflow="fold", ratio=3)
    for name, ratio in (("kind", 2), ("of it", 1), ("dimension", 1), ("indices that go", 2)):
        table.add_column(name, overflow="fold", ratio=ratio)
    for place in places:
        what = place.tensor or "its value"
        size = f"{place.dim} (of {place.size})"
        table.add_row(place.op, place.kind, what, size, _indices(place.indices))
    return table


def _indices(indices: Sequence[int]) -> str:
    """`3, 7-9`, the middle of many left out."""
    from compressc.ir.printer import ranges_text

    texts = ranges_text(indices).split(",")
    if len(texts) > _LISTED:
        texts = [*texts[: _LISTED - 1], "...", texts[-1]]
    return ", ".join(texts)
