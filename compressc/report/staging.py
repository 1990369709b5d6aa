"""An output folder that changes all at once: what a run writes appears together, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compressc.errors import CompresscError


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A scratch folder beside `folder`, whose entries move into it when the block succeeds.

    Entries of the same name are replaced; others in `folder` stay. Where the block fails (also by
    Ctrl-C), nothing in `folder` has changed and the scratch folder is gone.

    Raises:
        CompresscError: CC600 where the folder cannot be written, or the disk is full.
    """
    created = make_writable(folder)
    scratch = None
    try:
        scratch = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
        yield scratch
        for entry in sorted(scratch.iterdir()):
            _move(entry, folder / entry.name)
        created = None
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
        if created is not None:
            shutil.rmtree(created, ignore_errors=True)


def make_writable(folder: Path) -> Path | None:
    """Make a folder and see that it can be written.

    Returns:
        The topmost folder that had to be made, or None where all were there.

    Raises:
        CompresscError: CC600.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if missing:
            shutil.rmtree(missing[-1], ignore_errors=True)
        raise unwritable(folder, error) from error
    return missing[-1] if missing else None


def _move(source: Path, target: Path) -> None:
    """Rename over whatever is there; a folder is moved aside first: it is never half new."""
    if target.is_dir() and not target.is_symlink():
        aside = Path(tempfile.mkdtemp(prefix=".old-", dir=target.parent))
        os.replace(target, aside / target.name)
        os.replace(source, target)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        os.replace(source, target)


def unwritable(folder: Path, error: OSError) -> CompresscError:
    """CC600 for an operating system's complaint."""
    return CompresscError(
        "CC600",
        "the output folder can be written",
        got=error.strerror or str(error),
        where=str(folder),
        hint="choose another folder with -o, or make room",
    )
