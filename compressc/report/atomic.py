"""Write a file so that nobody ever sees half of it."""

from __future__ import annotations

from pathlib import Path

from compressc import durable
from compressc.report.staging import unwritable


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text durably; the folder is made where missing.

    Raises:
        CompresscError: CC600 where the folder cannot be written; what stood there stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.write_text(path, text)
    except OSError as error:
        raise unwritable(path, error) from error
