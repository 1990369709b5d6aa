"""Tables of a page that a benchmark writes, between two marks: `<!-- NAME: begin -->` and `end`."""

from __future__ import annotations

from pathlib import Path


def between(page: Path, name: str) -> str:
    """What stands between the marks of that name."""
    return _parts(page, name)[1].strip()


def put(page: Path, name: str, text: str) -> None:
    """Put the text there, in place of what was."""
    before, _, after = _parts(page, name)
    page.write_text(f"{before}\n{text.strip()}\n{after}", encoding="utf-8")


def _parts(page: Path, name: str) -> tuple[str, str, str]:
    """Up to the first mark, between both, from the last one on."""
    first, last = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(first)
    inside, end, after = rest.partition(last)
    if not begin or not end:
        raise SystemExit(f"{page} has no {first} with {last} behind it")
    return before + begin, inside, end + after
