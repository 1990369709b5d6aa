"""The last states of a run on disk: what is read back is exactly what was saved, or nothing.

A checkpoint is a folder: `state.safetensors` (weights, buffers, moments), `best.safetensors` (the
best state so far) and `state.json` (all numbers, and digests of all three). It is written aside,
synced and renamed: no crash leaves half of one.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import safetensors
from safetensors import SafetensorError
from torch import Tensor

from compressc import processes
from compressc.durable import rename, sync_tree
from compressc.errors import CompresscError
from compressc.interruption import held_back
from compressc.ir.aligned import write_aligned
from compressc.pipeline import Store
from compressc.scratch import scratch
from compressc.training.lesson import Recipe
from compressc.training.sharding import gathered
from compressc.training.state import RunState

#: Of the files; a checkpoint of a later one is not read.
FORMAT = 1
#: How many are kept: the last may be damaged by the disk.
KEPT = 2
#: Ends of epochs that come closer together than this share of the interval are no news.
SHARE = 0.1
_STATE, _BEST, _NUMBERS = "state.safetensors", "best.safetensors", "state.json"
_PARTIAL = ".partial-"


class DamagedError(Exception):
    """A checkpoint is not what was saved; the message says what is wrong with it."""


class LaterError(Exception):
    """A checkpoint was saved by a later version of compressc; the message says what it has."""


class Checkpoints:
    """The last two states of one run.

    Args:
        folder: of this run alone; None saves nothing.
        seconds: between two of them; 0 for one after every step.
        clock: seconds from any moment on, for tests.
        say: told where the run goes on, and what went wrong.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.folder, self.seconds, self.clock, self.say = folder, seconds, clock, say
        self._last = clock()

    @classmethod
    def of(cls, store: Store, name: str) -> Checkpoints:
        """Those of a pass, for the run of that name in it."""
        return cls(store.place(name), seconds=store.seconds, say=store.say)

    def due(self, *, at_the_end_of_an_epoch: bool = False) -> bool:
        """Whether it is time for one."""
        share = SHARE if at_the_end_of_an_epoch else 1.0
        if self.folder is None or not processes.is_main():
            return False
        return self.clock() - self._last >= share * self.seconds

    def save(self, state: RunState, about: Mapping[str, Any]) -> None:
        """Keep a state, and let those before the last two go.

        Where weights are spread over processes, all of them come here; the main one writes.

        Where there is no room the run goes on without, and it is said: the last good one stays.

        Args:
            state: between two steps.
            about: what else a run must have in common with this one to go on from it, as JSON.
        """
        if self.folder is None:
            return
        tensors = gathered(state.tensors())  # by all, before anything can fail in one of them
        if not processes.is_main():
            return
        place = self.folder / f"{state.place.epoch:08d}-{state.place.position:010d}"
        try:
            with scratch(self.folder, _PARTIAL) as aside:
                self._write(aside, state, tensors, about)
                sync_tree(aside)
                with held_back():
                    if not place.exists():
                        rename(aside, place)
            for old in self._kept()[:-KEPT]:
                shutil.rmtree(old, ignore_errors=True)
        except (OSError, CompresscError) as error:
            self.say(f"[CC600] no checkpoint at step {state.place.step}: {error}")
        self._last = self.clock()

    def load(self, state: RunState, about: Mapping[str, Any]) -> bool:
        """Make a state what was saved last; False, and the state as it is, where nothing was.

        Of several processes the main one looks first, and the others take the same.

        Raises:
            CompresscError: CC601 where another process cannot read it.
        """
        found = processes.of_main(processes.is_main() and self._load(state, about))
        if found and not processes.is_main() and not self._load(state, about):
            raise CompresscError("CC601", "every process reads the same checkpoint")
        processes.of_main(None)  # nobody saves before all have read
        return found

    def _load(self, state: RunState, about: Mapping[str, Any]) -> bool:
        for path in reversed(self._kept()):
            try:
                theirs, numbers, tensors, best = _read(path)
                if _whole(theirs) != _whole(_plain(about)):
                    self.say("begun anew: the checkpoint is of a run of another form")
                    shutil.rmtree(path, ignore_errors=True)
                    continue
                state.restore(tensors, best, numbers)
            except LaterError as error:
                self.say(f"begun anew: {error}")
                shutil.rmtree(path, ignore_errors=True)
                continue
            except DamagedError as error:
                self.say(f"a checkpoint was not what was saved and is not used: {error}")
                shutil.rmtree(path, ignore_errors=True)
                continue
            place = state.place
            self.say(f"went on behind batch {place.position} of epoch {place.epoch}")
            return True
        return False

    def _kept(self) -> list[Path]:
        """Checkpoints, the oldest first."""
        with suppress(OSError):
            if self.folder is not None:
                return sorted(p for p in self.folder.iterdir() if not p.name.startswith("."))
        return []

    def _write(
        self,
        folder: Path,
        state: RunState,
        tensors: Mapping[str, Tensor],
        about: Mapping[str, Any],
    ) -> None:
        write_aligned(tensors, folder / _STATE, {})
        write_aligned(state.best.tensors(), folder / _BEST, {})
        content = {"format": FORMAT, "about": about, "numbers": state.numbers()}
        digests = {name: _digest(folder / name) for name in (_STATE, _BEST)}
        text = json.dumps({**content, "digests": digests})
        sealed = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "content": text}
        (folder / _NUMBERS).write_text(json.dumps(sealed), encoding="utf-8")


def _read(path: Path) -> tuple[Any, dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """What a run must have in common, numbers, tensors and the best state.

    Raises:
        DamagedError: where anything differs from what was saved.
        LaterError: where a later version saved it.
    """
    try:
        sealed = json.loads((path / _NUMBERS).read_text(encoding="utf-8"))
        text = sealed["content"]
        if hashlib.sha256(text.encode()).hexdigest() != sealed["sha256"]:
            raise DamagedError(f"the digest of {_NUMBERS} is another one")
        content = json.loads(text)
        if content["format"] > FORMAT:
            text = f"the checkpoint is of a later version, format {content['format']}"
            raise LaterError(f"{text}; this one reads up to {FORMAT}")
        for name, digest in content["digests"].items():
            if _digest(path / name) != digest:
                raise DamagedError(f"the digest of {name} is another one")
        tensors, best = _tensors(path / _STATE), _tensors(path / _BEST)
    except (OSError, ValueError, LookupError, TypeError, RecursionError, SafetensorError) as error:
        raise DamagedError(f"{type(error).__name__}: {error}") from error
    return content["about"], content["numbers"], tensors, best


def _tensors(path: Path) -> dict[str, Tensor]:
    with safetensors.safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _whole(about: Any) -> Any:
    """With the options of a recipe that came after it was saved, as they were then: by default."""
    recipe = about.get("recipe") if isinstance(about, dict) else None
    if not isinstance(recipe, dict):
        return about
    defaults = {part.name: part.default for part in fields(Recipe) if part.default is not MISSING}
    return {**about, "recipe": {**_plain(defaults), **recipe}}


def _plain(about: Mapping[str, Any]) -> Any:
    """As it comes back from JSON."""
    return json.loads(json.dumps(about))
