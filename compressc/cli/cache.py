"""`compressc cache`: what is kept of passes that ran, how much it may take, and away with it."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compressc.errors import CompresscError

if TYPE_CHECKING:
    from rich.table import Table

    from compressc.pipeline.cache import Entry, PassCache

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS |= {f"{unit}i": 1024**i for i, unit in enumerate("kmgt", start=1)}
_AGES = ((86400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))


def cache(
    folder: Annotated[
        Path | None, typer.Option("--cache", help="The folder; the user's own if not given.")
    ] = None,
    limit: Annotated[
        str | None,
        typer.Option(help="Keep at most this much from now on: 10GB, 500MB; the oldest go first."),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove every result.")] = False,
) -> None:
    """Show the results of passes that are kept for the next run, limit or remove them."""
    from compressc.pipeline import PassCache, default_cache_folder
    from compressc.report.console import Console

    kept = PassCache(folder or default_cache_folder())
    dropped: list[Entry] = []
    if limit is not None:
        size = parse_size(limit)
        _remember(kept, size)
        dropped += kept.shrink(size)
    if clear:
        dropped += kept.clear()
    console = Console()
    entries = kept.entries()
    if entries:
        console.print(_table(entries))
    if dropped:
        console.print(_sum("removed", dropped))
    console.print(f"{_sum('kept', entries)} of {bytes_text(kept.limit)}")
    console.print(str(kept.folder), soft_wrap=True)


def _remember(kept: PassCache, limit: int) -> None:
    try:
        kept.limit = limit
    except OSError as error:
        got = error.strerror or str(error)
        wanted = "the folder of the cache can be written"
        raise CompresscError("CC600", wanted, got=got, where=str(kept.folder)) from error


def _table(entries: list[Entry]) -> Table:
    from rich.table import Table

    table = Table("pass", "size", "last used", "made with", "key")
    for entry in reversed(entries):
        facts = entry.facts
        made = facts.made if facts else {}
        versions = [f"{name} {made[name]}" for name in ("torch", "threads") if name in made]
        table.add_row(
            _what(entry),
            bytes_text(entry.bytes),
            age_text(time.time() - entry.used),
            ", ".join(versions),
            entry.path.name[:12],
        )
    return table


def _what(entry: Entry) -> str:
    if entry.unfinished:
        return f"{entry.unfinished}, not finished: the same command goes on with it"
    if entry.is_answers:
        return "a teacher's answers"
    if entry.is_latencies:
        return "times of layers on this machine"
    if entry.is_samples:
        return "samples made without data"
    return entry.facts.text if entry.facts else "damaged: it will be made again"


def _sum(word: str, entries: list[Entry]) -> str:
    size = bytes_text(sum(entry.bytes for entry in entries))
    return f"{word} {len(entries)} result{'s' * (len(entries) != 1)}, {size}"


def parse_size(text: str) -> int:
    """`10GB`, `1.5 GiB` or a number of bytes.

    Raises:
        CompresscError: CC100 for anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    if match is None or match[2] not in _UNITS:
        raise CompresscError("CC100", "a size is written 10GB or 500MB", got=repr(text))
    return int(float(match[1]) * _UNITS[match[2]])


def bytes_text(size: int) -> str:
    """A size in the unit that leaves one to three digits: `1.2 GB`."""
    for unit, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


def age_text(seconds: float) -> str:
    """How long ago: `3 hours ago`."""
    for unit, name in _AGES:
        count = int(seconds // unit)
        if count:
            return f"{count} {name if count > 1 else name[:-1]} ago"
    return "now"
