"""Results of passes, kept under a hash of everything they depend on: no work is done twice."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from compressc import processes
from compressc.durable import make_folder, rename, sync_tree
from compressc.interruption import held_back
from compressc.ir import Graph
from compressc.pipeline.store import ANSWERS, LATENCIES, SAMPLES, UNFINISHED, read_about
from compressc.pipeline.stored import DamagedError, Facts, read_entry, read_facts, write_entry
from compressc.scratch import scratch

#: Bytes that entries may take together where nobody says otherwise.
LIMIT = 10 * 10**9
_LIMIT_FILE = ".limit"
_WRITTEN = (UNFINISHED, ANSWERS, LATENCIES, SAMPLES)
_KEY = re.compile(rf"[0-9a-f]{{64}}({'|'.join(map(re.escape, _WRITTEN))})?")
_PARTIAL = ".partial-"


def default_cache_folder() -> Path:
    """`$COMPRESSC_CACHE`, or `compressc` in the user's cache folder."""
    named = os.environ.get("COMPRESSC_CACHE")  # empty is as good as not set
    if named:
        return Path(named)
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "compressc"


@dataclass(frozen=True)
class Cached:
    """What a pass left: the graph, and facts about the run."""

    graph: Graph
    facts: Facts


@dataclass(frozen=True)
class Entry:
    """One result in the cache, or what a pass that was not finished left, answers, latencies or
    samples.

    Attributes:
        path: its folder.
        bytes: on disk, all files together.
        used: when it was last stored or read, in seconds since 1970.
    """

    path: Path
    bytes: int
    used: float

    @property
    def facts(self) -> Facts | None:
        """What is known of the run; None where the entry is damaged."""
        return read_facts(self.path)

    @property
    def unfinished(self) -> str:
        """The pass as it is written in a pass list, where this is of one that was not finished."""
        return str(read_about(self.path).get("text", "")) if _is_unfinished(self.path) else ""

    @property
    def is_answers(self) -> bool:
        """Whether these are a teacher's answers."""
        return self.path.name.endswith(ANSWERS)

    @property
    def is_latencies(self) -> bool:
        """Whether this is a table of latencies."""
        return self.path.name.endswith(LATENCIES)

    @property
    def is_samples(self) -> bool:
        """Whether these are samples that were made without data."""
        return self.path.name.endswith(SAMPLES)


class PassCache:
    """Bundles in a folder, one per key.

    Args:
        folder: where; None switches caching off.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @staticmethod
    def key(parts: Mapping[str, Any]) -> str:
        """sha256 over the parts, in canonical JSON."""
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def load(self, key: str, note: Callable[[str], None] = lambda text: None) -> Cached | None:
        """The stored result, or None.

        Args:
            key: of `key`.
            note: told where an entry is not what was stored; it is dropped then.
        """
        if self.folder is None:
            return None
        path = self.folder / key
        try:
            graph, facts = read_entry(path, key)
        except FileNotFoundError:
            return None
        except (DamagedError, OSError) as error:
            if os.path.lexists(path):  # nobody else has dropped it meanwhile
                note(f"an entry of the cache was not what was stored and is made again: {error}")
                self._drop(path)
            return None
        with suppress(OSError):  # a cache that is for reading only still serves
            os.utime(path)
        rest = self.unfinished(key)
        if rest is not None:  # its run was killed between keeping the result and clearing this
            shutil.rmtree(rest, ignore_errors=True)
        return Cached(graph, facts)

    def unfinished(self, key: str) -> Path | None:
        """Where the pass of that key may keep how far it is."""
        return self.folder and self.folder / f"{key}{UNFINISHED}"

    def samples(self, key: str) -> Path | None:
        """Where the samples of that key are, or will be; None to keep nothing."""
        return self.folder and self.folder / f"{key}{SAMPLES}"

    def store(self, key: str, graph: Graph, facts: Facts) -> bool:
        """Keep a result, and let the oldest go where all take more than the limit.

        Written aside and renamed, so that a crash leaves no half entry; a cache that cannot be
        written (full disk, read-only home) costs time, not the run.

        Returns:
            Whether it is kept.
        """
        if self.folder is None or not processes.is_main():
            return False
        try:
            make_folder(self.folder)
            with scratch(self.folder, _PARTIAL) as folder:
                write_entry(folder, key, graph, facts)
                if _bytes(folder) <= self.limit:
                    sync_tree(folder)
                    with held_back():
                        rename(folder, self.folder / key)
            self.shrink(self.limit)
        except (OSError, SafetensorError):
            pass  # also where another process stored the same key first
        return (self.folder / key).is_dir()

    @property
    def limit(self) -> int:
        """Bytes that entries may take together."""
        try:
            return int((self.folder or Path()).joinpath(_LIMIT_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return LIMIT

    @limit.setter
    def limit(self, size: int) -> None:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / _LIMIT_FILE).write_text(f"{size}\n", encoding="utf-8")

    def entries(self) -> list[Entry]:
        """All that is kept, what was used longest ago first."""
        found = []
        for path in _listed(self.folder):
            if _KEY.fullmatch(path.name):
                with suppress(OSError):  # dropped by somebody else meanwhile
                    found.append(Entry(path, _bytes(path), _used(path)))
        return sorted(found, key=lambda entry: (entry.used, entry.path))

    def shrink(self, limit: int) -> list[Entry]:
        """Drop those used longest ago until the others take no more than `limit` bytes.

        Returns:
            What was dropped.
        """
        entries = self.entries()
        left, dropped = sum(entry.bytes for entry in entries), []
        for entry in entries:
            if left <= limit:
                break
            self._drop(entry.path)
            dropped.append(entry)
            left -= entry.bytes
        return dropped

    def clear(self) -> list[Entry]:
        """Drop every result; files that are none of ours stay.

        Returns:
            What was dropped.
        """
        return self.shrink(-1)

    def _drop(self, path: Path) -> None:
        """Out of sight first: nobody meets half an entry."""
        with suppress(OSError), scratch(path.parent, _PARTIAL) as aside:
            os.replace(path, aside / path.name)


def _listed(folder: Path | None) -> list[Path]:
    try:
        return [] if folder is None else list(folder.iterdir())
    except OSError:
        return []


def _bytes(entry: Path) -> int:
    """Of the files in an entry; links count for themselves."""
    paths = entry.rglob("*") if entry.is_dir() and not entry.is_symlink() else (entry,)
    return sum(path.lstat().st_size for path in paths if path.is_symlink() or not path.is_dir())


def _used(entry: Path) -> float:
    """When it was last stored or read, or written into."""
    written = entry.name.endswith(_WRITTEN)
    inside: Iterable[Path] = entry.iterdir() if written else ()
    times: list[float] = [path.lstat().st_mtime for path in (entry, *inside)]
    return max(times)


def _is_unfinished(path: Path) -> bool:
    return path.name.endswith(UNFINISHED)
