"""Writing so that what is said to be stored is there after a power cut, whole or not at all.

A rename is only as durable as the bytes below it and the folder around it: files are synced, then
the folders that list them, then renamed, then the folder of the new name is synced.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compressc.interruption import held_back

#: What a file system answers that cannot sync a folder.
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


def sync(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk.

    Raises:
        OSError: for whatever the disk complains of; a full one may do so only now.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in _NO_FOLDER_SYNC):
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Sync every regular file and folder below, and the folder itself last.

    Raises:
        OSError: as `sync`.
    """
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(place, name)
            if stat.S_ISREG(path.lstat().st_mode):  # opening a pipe would wait for ever
                sync(path)
        sync(Path(place))


def make_folder(folder: Path) -> None:
    """Make a folder and those above it where they are missing; on return their names are synced.

    Raises:
        OSError: as `Path.mkdir` and `sync`.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        sync(path.parent)


def rename(source: Path, target: Path) -> None:
    """Rename a synced file or folder over `target`, and sync the folder that lists it.

    Raises:
        OSError: as `os.replace` and `sync`.
    """
    os.replace(source, target)
    sync(target.parent)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write aside; synced and renamed over `path`: nobody ever sees half of it.

    Raises:
        OSError: what stood there stays, and nothing else is left.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield aside
        sync(aside)
        with held_back():
            rename(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text so that nobody ever sees half of it.

    Raises:
        OSError: as for `replacing`.
    """
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")
