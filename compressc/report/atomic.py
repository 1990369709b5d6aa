"""Write a file so that nobody ever sees half of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compressc import durable
from compressc.report.staging import unwritable


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write aside, which takes the place of `path`; the folder is made where missing.

    Raises:
        CompresscError: CC600 where the folder cannot be written; what stood there stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with durable.replacing(path) as aside:
            yield aside
    except OSError as error:
        raise unwritable(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text durably.

    Raises:
        CompresscError: CC600 as for `replacing`.
    """
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")
