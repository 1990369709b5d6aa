"""What is said to be stored is there after a power cut, and at no moment is half of it there.

A disk that keeps only what it was asked to: bytes of a file when the file is synced, names in a
folder when the folder is. It is cut after every sync; what it holds then must be nothing or all
that was stored. Not one file or folder may be left out: that is tried, too.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from compressc.durable import make_folder
from compressc.errors import CompresscError
from compressc.ir import Graph, graph_hash, load_bundle, save_bundle
from compressc.pipeline import PassCache
from compressc.pipeline.stored import Facts
from compressc.report.staging import staged
from compressc.testing import export_graph
from compressc.training import Checkpoints
from compressc.training.place import Place
from compressc.training.state import RunState

KEY = "0" * 64


class Disk:
    """What would be left of a folder; `skip` is the file or folder whose syncs never happen,
    counted from 0 in the order of their first ones."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, skip: int | None) -> None:
        self.root, self.skip = root, skip
        self.asked: list[int] = []  # files and folders in the order of their first sync
        self.bytes: dict[int, bytes] = {}
        self.names: dict[int, dict[str, int]] = {}
        self.folders: set[int] = set()
        self.held: list[int] = []  # open files, so that no number is given to another file
        self.look: Callable[[], None] = lambda: None
        for place, _, files in os.walk(root):  # what is there at first is on the disk
            for path in (Path(place), *(Path(place, name) for name in files)):
                self.keep(os.open(path, os.O_RDONLY))
        monkeypatch.setattr(os, "fsync", self.fsync)

    def fsync(self, descriptor: int) -> None:
        """In place of the system's."""
        number = os.fstat(descriptor).st_ino
        if number not in self.asked:
            self.asked.append(number)
        if self.asked.index(number) != self.skip:
            self.keep(os.dup(descriptor))
        self.look()

    def keep(self, descriptor: int) -> None:
        self.held.append(descriptor)
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            entries = list(os.scandir(descriptor))
            self.names[found.st_ino] = {entry.name: entry.inode() for entry in entries}
            self.folders |= {entry.inode() for entry in entries if entry.is_dir()}
        else:
            self.bytes[found.st_ino] = os.pread(descriptor, found.st_size, 0)

    def after_a_cut(self, target: Path) -> Path:
        """The folder as the next start would find it, written to `target`."""
        self._restore(self.root.stat().st_ino, target)
        return target

    def _restore(self, number: int, target: Path) -> None:
        if number in self.folders or number in self.names:
            target.mkdir()
            for name, inner in self.names.get(number, {}).items():
                self._restore(inner, target / name)
        else:  # a name whose bytes were never written is an empty file
            target.write_bytes(self.bytes.get(number, b""))


def graph(seed: int) -> Graph:
    torch.manual_seed(seed)
    return export_graph(nn.Linear(4, 3), torch.zeros(3, 4))


NEW = graph(1)
STATES = {graph_hash(NEW): "new"}


def write_bundle(folder: Path) -> None:
    save_bundle(NEW, folder / "made" / "bundle")


def read_bundle(folder: Path) -> str:
    try:
        return STATES[graph_hash(load_bundle(folder / "made" / "bundle"))]
    except CompresscError:
        there = folder / "made" / "bundle"
        return "lost" if there.exists() and any(there.iterdir()) else "nothing"


def write_entry(folder: Path) -> None:
    PassCache(folder / "cache" / "of mine").store(
        KEY, NEW, Facts(text="x", seconds=1.0, edits={}, notes=[], made={})
    )


def read_entry(folder: Path) -> str:
    said: list[str] = []
    found = PassCache(folder / "cache" / "of mine").load(KEY, said.append)
    return STATES[graph_hash(found.graph)] if found else "lost" if said else "nothing"


def write_output(folder: Path) -> None:
    with staged(folder / "made" / "out") as fresh:
        for name in ("a", "b"):
            (fresh / name).write_text("new")
        (fresh / "c").mkdir()
        (fresh / "c" / "d").write_text("new")


def read_output(folder: Path) -> str:
    files = [folder / "made" / "out" / name for name in ("a", "b", "c/d")]
    found = {path.read_text() if path.is_file() else "nothing" for path in files}
    return found.pop() if len(found) == 1 else "lost"


def run_state() -> RunState:
    net = nn.Linear(2, 2)
    state = RunState({"net": net}, torch.optim.SGD(net.parameters()), Place(rate=0.5))
    state.best.offer(1.0, 0)
    return state


def write_checkpoint(folder: Path) -> None:
    make_folder(folder / "made" / "training")
    Checkpoints(folder / "made" / "training").save(run_state(), {})


def read_checkpoint(folder: Path) -> str:
    said: list[str] = []
    if Checkpoints(folder / "made" / "training", say=said.append).load(run_state(), {}):
        return "new"
    return "lost" if said else "nothing"


CASES = {
    "checkpoint": (write_checkpoint, read_checkpoint),
    "bundle": (write_bundle, read_bundle),
    "cache": (write_entry, read_entry),
    "output": (write_output, read_output),
}


def seen(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skip: int | None = None
) -> tuple[list[str], int]:
    """States after a cut at each sync, and after the write came back; and how much was synced."""
    write, read = CASES[name]
    root = tmp_path / f"root{skip}"
    root.mkdir()
    states = []
    with monkeypatch.context() as patch:
        disk = Disk(root, patch, skip)

        def look() -> None:
            with monkeypatch.context() as inner:  # reading may sync, too
                inner.setattr(os, "fsync", lambda descriptor: None)
                states.append(read(disk.after_a_cut(tmp_path / f"cut{skip}-{len(states)}")))

        disk.look = look
        write(root)
        look()
    for descriptor in disk.held:
        os.close(descriptor)
    return states, len(disk.asked)


@pytest.mark.parametrize("name", CASES)
def test_stored_is_stored(name, tmp_path, monkeypatch):
    states, _ = seen(name, tmp_path, monkeypatch)
    assert states[-1] == "new"
    assert set(states) <= {"nothing", "new"}


@pytest.mark.parametrize("name", CASES)
def test_nothing_may_be_left_out(name, tmp_path, monkeypatch):
    _, count = seen(name, tmp_path, monkeypatch)
    assert count >= 5
    for skip in range(count):
        states, _ = seen(name, tmp_path, monkeypatch, skip)
        assert states[-1] != "new", skip
