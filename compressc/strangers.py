"""Files and code that somebody else wrote: bounded, and never taken for a failure of ours.

A library that reads a damaged file raises whatever it likes, and so does a user's function, which
may end the process, too (a script that parses arguments when it is imported). Around both stands
`reading`, which makes one error of ours of it.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compressc.errors import CompresscError, first_line

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def regular_file(
    path: Path, code: str, wanted: str, *, most: int | None = None, hint: str = "check the path"
) -> int:
    """See that a path names a regular file, before anything opens it.

    A pipe would wait for ever, a device never end, and a folder is said to be one.

    Args:
        path: links are followed.
        code: of the error.
        wanted: what the error says is wanted.
        most: bytes that it may have.
        hint: what to do about it.

    Returns:
        Its size in bytes.

    Raises:
        CompresscError: `code`, saying what is there instead.
    """
    got = ""
    size = 0
    try:
        found = path.stat()
        size = found.st_size
        got = "" if stat.S_ISREG(found.st_mode) else _KINDS.get(stat.S_IFMT(found.st_mode), "else")
        if not got and most is not None and size > most:
            got = f"{size:,} bytes, more than {most:,}"
    except FileNotFoundError:
        got = "a link to nothing" if path.is_symlink() else "no such file"
    except (OSError, ValueError) as error:  # too long a name, a loop of links, a null byte
        got = getattr(error, "strerror", None) or str(error)
    if got:
        raise CompresscError(code, wanted, got=got, where=str(path), hint=hint)
    return size


@contextmanager
def reading(code: str, wanted: str, where: str, hint: str = "") -> Iterator[None]:
    """Whatever is raised in the block becomes one error that shows its first line.

    SystemExit and other exceptions beside `Exception`, too. Errors of ours pass as they are, and
    so does what is no failure of the reading: an interruption.

    Raises:
        CompresscError: `code`.
    """
    try:
        yield
    except (CompresscError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise CompresscError(code, wanted, got=first_line(error), where=where, hint=hint) from error
