"""Where a pass keeps how far it is, so that the same command goes on after the process was killed.

A folder beside the results in the cache, under the key that the result will have: what was begun
with other data, options, weights or code is never gone on with.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from compressc import durable, processes

#: Behind the key in the name of a folder.
UNFINISHED = ".unfinished"
#: Behind the key of a teacher's answers, which outlive the pass that asked for them.
ANSWERS = ".answers"
#: Behind the key of a table of latencies.
LATENCIES = ".latencies"
#: What it is of: the text of the pass, and the parts of its key.
ABOUT = "about.json"
#: Behind the key of samples that were made without data.
SAMPLES = ".samples"
#: Seconds between two checkpoints where nobody says otherwise.
SECONDS = 60.0
#: Parts of a key in words.
_WORDS = {
    "graph": "weights or passes before it",
    "data": "data",
    "task": "task",
    "target": "target",
    "seed": "seed",
    "conditions": "machine or settings",
    "class": "pass",
    "version": "version of the pass",
    "options": "options",
    "code": "code",
    "libraries": "library versions",
}
#: What a run has in common with one that it goes on from, or would have.
_SAME = ("graph", "data")


class Store:
    """Folders for what a pass wants to find again; nothing is made before it is asked for.

    Args:
        folder: of this pass and all it depends on; None keeps nothing.
        about: `text` of the pass, and the `parts` of its key.
        seconds: how much work may be lost; a pass keeps what it has about as often.
        most: bytes that answers of one teacher may take.
        say: told what is of interest in this very run, and no part of the result.
    """

    def __init__(
        self,
        folder: Path | None = None,
        about: Mapping[str, Any] | None = None,
        *,
        seconds: float = SECONDS,
        most: int = 0,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.folder, self.about = folder, about or {}
        self.seconds, self.most, self.say = seconds, most, say
        self._lock: int | None = None

    def place(self, name: str) -> Path | None:
        """A folder of that name, with what an earlier process left in it; None to keep nothing.

        The same for all processes of a run; the main one makes it.
        """
        return processes.of_main(self._place(name) if processes.is_main() else None)

    def _place(self, name: str) -> Path | None:
        if self.folder is None:
            return None
        try:
            self._open(self.folder)
            durable.make_folder(self.folder / name)
        except BlockingIOError:
            self.say("no checkpoints: another process is at the same work")
            self.folder = None
        except OSError as error:  # as a result that cannot be stored: it costs time, not the run
            self.say(f"no checkpoints: {error}")
            self.folder = None
        return self.folder and self.folder / name

    def within(self, name: str) -> Store:
        """For a part of the work: its folders are those of that name in this store."""
        return _Within(self, name)

    def answers(self, key: str) -> Path | None:
        """Where the answers of that key (64 hex digits) are, or will be; None to keep nothing."""
        return self.folder and self.folder.parent / f"{key}{ANSWERS}"

    def latencies(self, key: str) -> Path | None:
        """Where latencies of that key (64 hex digits) are, or will be; None to keep nothing."""
        return self.folder and self.folder.parent / f"{key}{LATENCIES}"

    def clear(self) -> None:
        """Away with it: the result is stored."""
        if self.folder is not None and self._lock is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Let another process have it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _open(self, folder: Path) -> None:
        """Make the folder this process's own.

        Raises:
            OSError: BlockingIOError where it is another's.
        """
        if self._lock is not None:
            return
        durable.make_folder(folder)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not (folder / ABOUT).exists():
                text = json.dumps(self.about, sort_keys=True, default=str)
                other = _difference(folder, json.loads(text))
                durable.write_text(folder / ABOUT, text)
                if other:
                    self.say(f"begun anew: what was left unfinished is of {other}")
        except OSError:
            os.close(lock)
            raise
        self._lock = lock


class _Within(Store):
    """A part of a store; locks, answers and all else are the store's.

    Args:
        whole: the store.
        name: of the part.
    """

    def __init__(self, whole: Store, name: str) -> None:
        super().__init__(
            whole.folder, whole.about, seconds=whole.seconds, most=whole.most, say=whole.say
        )
        self.whole, self.name = whole, name

    def place(self, name: str) -> Path | None:
        """See `Store`."""
        return self.whole.place(f"{self.name}, {name}")

    def clear(self) -> None:
        """Nothing: the store goes as a whole."""


def _difference(folder: Path, about: Mapping[str, Any]) -> str:
    """How the last unfinished run of this pass differs: `other data, options`; empty for none.

    One of other weights on other data is no earlier try of this one.
    """
    ours = _flat(about)
    with suppress(OSError):
        near = [path for path in folder.parent.glob(f"*{UNFINISHED}") if path != folder]
        for path in sorted(near, key=lambda p: p.stat().st_mtime, reverse=True):
            theirs = _flat(read_about(path))
            akin = any(ours.get(name) and theirs.get(name) == ours[name] for name in _SAME)
            if akin and theirs.get("class") == ours.get("class"):
                words = [w for name, w in _WORDS.items() if theirs.get(name) != ours.get(name)]
                return f"other {', '.join(words)}" if words else "another model"
    return ""


def read_about(folder: Path) -> dict[str, Any]:
    """What an unfinished folder is of; empty where that cannot be told."""
    try:
        found = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _flat(about: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a key, those of its pass among them."""
    parts = about.get("parts")
    if not isinstance(parts, dict):
        return {}
    own = parts.get("pass")
    return {**parts, **(own if isinstance(own, dict) else {}), "pass": None}
