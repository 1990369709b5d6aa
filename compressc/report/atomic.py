"""Write a file so that nobody ever sees half of it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from compressc.errors import CompresscError


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text: to a temporary file in the same folder, then renamed over `path`.

    Raises:
        CompresscError: CC600 where the folder cannot be written; what stood there stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files for the owner alone
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise CompresscError(
            "CC600",
            "the output folder can be written",
            got=error.strerror or str(error),
            where=str(path),
            hint="choose another folder with -o",
        ) from error


def _umask() -> int:
    # the only way to read it is to set it
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
