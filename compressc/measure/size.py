"""Size of what a user has to ship."""

from __future__ import annotations

from pathlib import Path


def bytes_on_disk(*paths: str | Path) -> int:
    """Bytes of files and of folders with all they contain, added up.

    Apparent sizes (what a download costs), not blocks. A link inside a folder counts as what it
    is, a few bytes, so that nothing is counted twice and nothing outside is counted.

    Args:
        paths: files or folders; a format of two files (`.xml` and `.bin`) is given as both.

    Raises:
        FileNotFoundError: where a path does not exist.
    """
    return sum(_bytes(Path(path)) for path in paths)


def _bytes(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    inside = (entry for entry in path.rglob("*") if entry.is_symlink() or not entry.is_dir())
    return sum(entry.lstat().st_size for entry in inside)
