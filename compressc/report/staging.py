"""An output folder that changes all at once: it is all of one run, or all of another.

A run writes into a scratch folder inside the output folder. When all is written and synced, that
scratch folder takes the place of the output folder in one exchange of two names (Linux's
`renameat2`), and the old one is removed. What others put into the folder is carried over; files
that a former run listed in its manifest are not.

Where names cannot be exchanged (a mount point, a working directory that somebody stands in, a
parent folder that is read-only, another system), entries are moved one by one. Should the process
be killed between two moves, the next run into that folder finishes them first.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from compressc import durable
from compressc.errors import CompresscError
from compressc.interruption import UNFINISHED, held_back
from compressc.report.exchange import exchange
from compressc.scratch import dead, scratch, sweep

#: Scratch folders: while files are written, and while they are moved one by one.
WRITING, MOVING = ".partial-", ".moving-"
#: What every run writes, beside the files of its back ends.
ENTRIES = ("graph", "passes", "manifest.json", "report.html")
#: Marks among the entries to be moved: what was moved aside, and what a former run listed.
_ASIDE, _GONE = ".old-", ".gone-"
#: More entries of strangers than this are not carried over: they stay where they are.
_MOST_CARRIED = 1000


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A scratch folder whose entries are those of `folder` once the block succeeds.

    Where the block fails (also by Ctrl-C), nothing in `folder` has changed and the scratch folder
    is gone. On return, everything is on the disk.

    Raises:
        CompresscError: CC600 where the folder cannot be written, or the disk is full.
    """
    created = make_writable(folder)
    place = folder.resolve()
    try:
        with scratch(place, WRITING) as fresh:
            yield fresh
            durable.sync_tree(fresh)  # outside: it may take long
            with held_back():
                _settle(place)
                _publish(fresh, place)
        created = None
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        if created is not None:
            shutil.rmtree(created, ignore_errors=True)


def make_writable(folder: Path) -> Path | None:
    """Make a folder, see that it can be written, and finish what a killed run had begun there.

    Returns:
        The topmost folder that had to be made, or None where all were there. It is removed where
        a signal ends the process.

    Raises:
        CompresscError: CC600.
    """
    missing: list[Path] = []
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        durable.make_folder(folder)
        if missing:
            UNFINISHED.add(str(missing[-1]))
        with tempfile.TemporaryFile(dir=folder):
            pass
        _finish(folder.resolve())
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        if missing:
            shutil.rmtree(missing[-1], ignore_errors=True)
        raise unwritable(folder, error) from error
    return missing[-1] if missing else None


def require_apart(folder: Path, source: str, files: Collection[str]) -> None:
    """See that what a run reads is nothing that it is going to replace.

    Args:
        folder: the output folder.
        source: the model's file or folder.
        files: what the back ends write, relative to the output folder.

    Raises:
        CompresscError: CC100.
    """
    try:
        inside = Path(source).resolve().relative_to(folder.resolve()).parts[:1]
        replaced = {*ENTRIES, *(Path(file).parts[0] for file in files), *_listed(folder)}
    except (
        OSError,
        ValueError,
        RuntimeError,
    ):  # elsewhere, or no path at all: said when it is read
        return
    if inside and inside[0] in replaced:
        raise CompresscError(
            "CC100",
            "the model is no file of the output folder that would be replaced",
            got=source,
            where=str(folder),
            hint="choose another folder with -o",
        )


def unwritable(folder: Path, error: Exception) -> CompresscError:
    """CC600 for an operating system's complaint."""
    return CompresscError(
        "CC600",
        "the output folder can be written",
        got=getattr(error, "strerror", None) or str(error),
        where=str(folder),
        hint="choose another folder with -o, or make room",
    )


def _settle(place: Path) -> None:
    """The folder was made for this run and stays now."""
    for path in (place, *place.parents):
        UNFINISHED.discard(str(path))


def _finish(place: Path) -> None:
    """Do what killed runs left to do: move what was to be moved, remove the rest."""
    for moving in dead(place, MOVING):
        _move_entries(moving, place)
    sweep(place, WRITING)
    sweep(place.parent, _beside(place))


def _beside(place: Path) -> str:
    return f".{place.name}{WRITING}"


def _publish(fresh: Path, place: Path) -> None:
    stale = _listed(place) - {entry.name for entry in fresh.iterdir()}
    if not _swap(fresh, place, stale):
        for name in stale:
            (fresh / (_GONE + name)).touch()
        durable.sync(fresh)
        moving = place / fresh.name.replace(WRITING, MOVING)
        durable.rename(fresh, moving)
        _move_entries(moving, place)


# ---- all entries in one exchange of two folders ------------------------------------------------


def _swap(fresh: Path, place: Path, stale: set[str]) -> bool:
    """Whether the scratch folder has taken the place of the output folder."""
    if os.path.ismount(place) or Path.cwd().is_relative_to(place):
        return False
    beside = place.parent / (_beside(place) + fresh.name.removeprefix(WRITING))
    carried = _strangers(place, fresh, stale)
    try:
        _carry(carried, fresh)
        _dress(fresh, place)
        os.rename(fresh, beside)
    except OSError:
        _drop(carried, fresh)
        return False
    try:
        exchange(beside, place)
    except OSError:
        os.rename(beside, fresh)
        _drop(carried, fresh)
        return False
    durable.sync(place.parent)
    _take_over(beside, place, {entry.name for entry in carried}, stale)
    shutil.rmtree(beside, ignore_errors=True)
    return True


def _strangers(old: Path, new: Path, stale: set[str]) -> list[Path]:
    """Entries that no run of ours wrote; the scratch folders of other living runs are none."""
    return [
        entry
        for entry in sorted(old.iterdir())
        if entry.name not in stale
        and not entry.name.startswith((WRITING, MOVING))
        and not os.path.lexists(new / entry.name)
    ]


def _carry(entries: list[Path], new: Path) -> None:
    """Give the new folder what strangers put into the old one: second names of the same files.

    Raises:
        OSError: where a file cannot have a second name, or there are too many.
    """
    count = 0

    def link(source: str, target: str) -> None:
        nonlocal count
        count += 1
        if count > _MOST_CARRIED:
            raise OSError(f"more than {_MOST_CARRIED} files")
        os.link(source, target, follow_symlinks=False)

    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            if os.path.ismount(entry):
                raise OSError(f"{entry} is a mount point")
            shutil.copytree(entry, new / entry.name, symlinks=True, copy_function=link)
        else:
            link(str(entry), str(new / entry.name))


def _drop(entries: list[Path], new: Path) -> None:
    for entry in entries:
        _remove(new / entry.name)


def _dress(fresh: Path, place: Path) -> None:
    """Mode, attributes and owner of the folder stay what they were."""
    shutil.copystat(place, fresh)
    os.utime(fresh)
    with suppress(PermissionError):
        os.chown(fresh, place.stat().st_uid, place.stat().st_gid)
    durable.sync_tree(fresh)


def _take_over(old: Path, new: Path, carried: set[str], stale: set[str]) -> None:
    """The strangers' own folders in place of their copies, and what was written at the last."""
    for entry in old.iterdir():
        target = new / entry.name
        with suppress(OSError):  # the carried copy stays
            if entry.name in carried and entry.is_dir() and not entry.is_symlink():
                exchange(entry, target)
            elif entry.name in carried:
                os.replace(entry, target)
            elif entry.name not in stale and not os.path.lexists(target):
                os.rename(entry, target)


# ---- or entry by entry, where names cannot be exchanged -----------------------------------------


def _move_entries(moving: Path, place: Path) -> None:
    """Move what is left in `moving` over what is in `place`; to be repeated after a crash."""
    for entry in sorted(moving.iterdir()):
        if entry.name.startswith(_GONE):
            _remove(place / entry.name.removeprefix(_GONE))
        elif not entry.name.startswith(_ASIDE):
            _move(entry, place / entry.name)
    durable.sync(place)
    shutil.rmtree(moving, ignore_errors=True)


def _move(source: Path, target: Path) -> None:
    """Rename over whatever is there; a folder is moved aside first: it is never half new."""
    if target.is_dir() and not target.is_symlink():
        os.replace(target, source.with_name(_ASIDE + source.name))
    os.replace(source, target)


def _listed(place: Path) -> set[str]:
    """Entries that the manifest of a former run names, where there is one."""
    manifest = place / "manifest.json"
    if not manifest.is_file():
        return set()
    try:
        files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        names = {Path(file["path"]).parts[0] for file in files}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return set()
    return {name for name in names if name not in ("/", "..") and os.path.lexists(place / name)}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
