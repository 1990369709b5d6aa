"""Scratch folders: gone when their work is done, and swept by the next run where a run was killed.

A scratch folder is locked for as long as its process lives, whatever becomes of its name. A lock,
not a process id in the name: ids are used again, and another container counts its own.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compressc.interruption import unfinished

_TRIES = 8
#: What a file system answers that has no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)


@contextmanager
def scratch(parent: Path, prefix: str) -> Iterator[Path]:
    """An empty folder in `parent`, removed at the end unless it was renamed by then.

    What killed runs left under the same prefix is removed first.

    Raises:
        OSError: where none can be made.
    """
    sweep(parent, prefix)
    folder, lock = _locked_folder(parent, prefix)
    try:
        with unfinished(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def dead(parent: Path, prefix: str) -> Iterator[Path]:
    """Scratch folders of processes that are no more, locked while the caller looks at each."""
    entries = sorted(parent.iterdir()) if parent.is_dir() else []
    for entry in entries:
        if not entry.name.startswith(prefix):
            continue
        try:
            lock = _lock(entry)
        except OSError:  # in use, somebody else's, or gone
            continue
        try:
            yield entry
        finally:
            os.close(lock)


def sweep(parent: Path, prefix: str) -> None:
    """Remove what killed runs left."""
    for folder in dead(parent, prefix):
        shutil.rmtree(folder, ignore_errors=True)


def _locked_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    for _ in range(_TRIES):
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            return folder, _lock(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # another run took it for dead in the moment before it was locked
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return folder, os.open(folder, os.O_RDONLY)  # then nobody can take it for dead
    raise FileExistsError(f"no scratch folder in {parent}")


def _lock(folder: Path) -> int:
    """A descriptor that holds the folder's lock.

    Raises:
        OSError: BlockingIOError where a living process holds it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise PermissionError(f"{folder} is somebody else's")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), os.stat(folder)):
            raise FileNotFoundError(f"{folder} was replaced")
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
