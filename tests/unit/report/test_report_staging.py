"""The output folder is all of one run or all of another, whatever else lies there."""

import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from compressc.errors import CompresscError
from compressc.report import make_writable, require_apart, staged
from compressc.report import staging as under_test

NAMES = ["graph/graph.txt", "model.onnx", "openvino/model.xml"]
FEWER = ["graph/graph.txt", "model.onnx", "model.pt2"]


def write(folder: Path, word: str, names: list[str]) -> None:
    """One run: files that all say `word`, and a manifest that lists them."""
    with staged(folder) as fresh:
        for name in names:
            (fresh / name).parent.mkdir(exist_ok=True)
            (fresh / name).write_text(word)
        listed = [{"path": name} for name in names]
        (fresh / "manifest.json").write_text(json.dumps({"files": listed, "word": word}))


def test_a_model_that_would_be_replaced_is_found(tmp_path, monkeypatch):
    out = tmp_path / "out"
    write(out, "old", ["graph/graph.txt", "model.onnx"])
    (tmp_path / "link.pt2").symlink_to(out / "model.pt2")
    monkeypatch.chdir(tmp_path)
    files = ["model.pt2", "openvino/model.xml"]
    replaced = [
        out / "model.pt2",  # written again
        out / "model.onnx",  # of the former run, and not written again
        out / "graph",
        out / "openvino" / "teacher.bin",
        Path("link.pt2"),
        Path("out/../out/model.pt2"),
    ]
    for source in replaced:
        with pytest.raises(CompresscError, match=r"CC100.*would be replaced"):
            require_apart(out, str(source), files)
    for source in (out, out / "mine.pt2", tmp_path / "model.pt2", "", "\0", "x" * 5000):
        require_apart(out, str(source), files)


def killed(step: int, folder: Path, can_exchange: bool) -> bool:
    """Such a run in a child that is killed at the given call that changes names or deletes.

    Returns:
        Whether the run got so far.
    """
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
        return status != 0
    try:
        seen = 0

        def killing(call):
            def wrapped(*args, **options):
                nonlocal seen
                seen += 1
                if seen == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **options)

            return wrapped

        def cannot(first, second):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

        for name in ("rename", "replace", "unlink", "rmdir", "link", "fsync"):
            setattr(os, name, killing(getattr(os, name)))
        under_test.exchange = killing(under_test.exchange) if can_exchange else cannot
        write(folder, "new", FEWER)
        os._exit(0)
    finally:
        os._exit(1)


def words(folder: Path) -> dict[str, str]:
    """What each file says that a run wrote; hidden folders aside."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not name.parts[0].startswith(".") and name.parts[0] != "mine":
            found[str(name)] = "old" if "old" in path.read_text() else "new"
    return found


OLD = dict.fromkeys(sorted([*NAMES, "manifest.json"]), "old")
NEW = dict.fromkeys(sorted([*FEWER, "manifest.json"]), "new")


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def kill_at_every_step(out: Path, can_exchange: bool) -> list[dict[str, str]]:
    """The states that a killed run left, in order; each is followed by a run that repairs."""
    states = []
    for step in itertools.count(1):
        shutil.rmtree(out, ignore_errors=True)
        write(out, "old", NAMES)
        (out / "mine").mkdir()
        (out / "mine/notes.txt").write_text("stranger")
        died = killed(step, out, can_exchange)
        states.append(words(out))
        assert (out / "mine/notes.txt").read_text() == "stranger"
        if not died:
            assert hidden(out) == hidden(out.parent) == []
            return states
        make_writable(out)
        assert hidden(out) == hidden(out.parent) == [], "the next run sweeps"
        assert words(out) in (OLD, NEW), "the next run finishes"
    raise AssertionError


def test_killed_at_any_step_the_folder_is_all_old_or_all_new(tmp_path):
    states = kill_at_every_step(tmp_path / "out", can_exchange=True)
    assert all(state in (OLD, NEW) for state in states)
    assert states[0] == OLD
    assert states[-1] == NEW
    assert states.count(OLD) > 5 < states.count(NEW)


def test_entry_by_entry_the_next_run_finishes_what_was_begun(tmp_path):
    states = kill_at_every_step(tmp_path / "out", can_exchange=False)
    assert states[-1] == NEW
    assert any(state not in (OLD, NEW) for state in states), "what the docstring admits"


@pytest.mark.parametrize("way", ["exchange", "one by one"])
def test_strangers_stay_and_what_a_former_run_listed_goes(tmp_path, monkeypatch, way):
    out = tmp_path / "out"
    write(out, "old", NAMES)
    (out / "mine/deep").mkdir(parents=True)
    (out / "mine/deep/a.txt").write_text("a")
    (out / "link").symlink_to("mine/deep/a.txt")
    os.mkfifo(out / "pipe")
    (out / "notes.txt").write_text("notes")
    out.chmod(0o750)
    inodes = [os.stat(out / name).st_ino for name in ("mine", "mine/deep", "notes.txt")]
    if way == "one by one":
        monkeypatch.chdir(out)
    write(out, "new", FEWER)
    for name in ("link", "pipe", "notes.txt"):
        assert os.path.lexists(out / name)
    assert inodes == [os.stat(out / name).st_ino for name in ("mine", "mine/deep", "notes.txt")]
    assert (out / "link").read_text() == "a"
    (out / "notes.txt").unlink(), (out / "link").unlink(), (out / "pipe").unlink()
    assert words(out) == NEW
    assert out.stat().st_mode & 0o777 == 0o750
    assert hidden(out) == hidden(tmp_path) == []


def test_a_stranger_that_saves_at_the_last_moment_loses_nothing(tmp_path, monkeypatch):
    out, real = tmp_path / "out", under_test.exchange
    write(out, "old", NAMES)
    (out / "mine").mkdir()
    (out / "notes.txt").write_text("first")

    def late(first, second):
        if second == out and not (out / "late.txt").exists():
            (out / "late.txt").write_text("late")
            (out / "mine/late.txt").write_text("late")
            (out / "other").write_text("second")
            os.replace(out / "other", out / "notes.txt")  # as editors save
        real(first, second)

    monkeypatch.setattr(under_test, "exchange", late)
    write(out, "new", NAMES)
    read = [(out / name).read_text() for name in ("late.txt", "mine/late.txt", "notes.txt")]
    assert read == ["late", "late", "second"]


def write_and_raise(folder: Path, error: BaseException) -> None:
    with staged(folder) as fresh:
        (fresh / "model.onnx").write_text("new")
        raise error


def test_a_block_that_fails_changes_nothing(tmp_path):
    out = tmp_path / "deep/out"
    with pytest.raises(KeyboardInterrupt):
        write_and_raise(out, KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []
    write(out, "old", NAMES)
    with pytest.raises(CompresscError) as caught:
        write_and_raise(out, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert (caught.value.code, caught.value.got) == ("CC600", "No space left on device")
    assert words(out) == OLD
    assert hidden(out) == []


def test_a_living_run_is_not_swept(tmp_path):
    with staged(tmp_path / "out") as first:
        (first / "a").write_text("old")
        with staged(tmp_path / "out") as second:
            assert first.exists()
            (second / "b").write_text("new")
    assert (tmp_path / "out/a").exists()
    (tmp_path / "out/.partial-dead").mkdir()
    with staged(tmp_path / "out"):
        assert not (tmp_path / "out/.partial-dead").exists()


def test_bytes_are_synced_before_names_and_folders_after_files(tmp_path, monkeypatch):
    """What a power cut could undo is asked of the system in this order."""
    events: list[tuple[str, str]] = []

    def recorded(name, call):
        def wrapped(target, *args, **options):
            path = os.readlink(f"/proc/self/fd/{target}") if name == "sync" else str(target)
            events.append((name, Path(path).name.split("-")[0]))
            return call(target, *args, **options)

        return wrapped

    write(tmp_path / "out", "old", ["model.pt2"])
    monkeypatch.setattr(os, "fsync", recorded("sync", os.fsync))
    monkeypatch.setattr(under_test, "exchange", recorded("exchange", under_test.exchange))
    write(tmp_path / "out", "new", ["graph/graph.txt"])
    names = [event for event in events if event != ("sync", ".partial")]
    at = names.index(("exchange", ".out.partial"))
    for name in ("graph.txt", "graph", "manifest.json"):
        assert ("sync", name) in names[:at]
    assert names.index(("sync", "graph.txt")) < names.index(("sync", "graph"))
    assert events[events.index(("exchange", ".out.partial")) - 1] == ("sync", ".partial")
    assert names[at + 1] == ("sync", tmp_path.name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_mount_point_and_a_full_disk(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(out)]
    if subprocess.run(mounted, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        write(out, "old", NAMES)
        assert words(out) == OLD
        with pytest.raises(CompresscError) as caught, staged(out) as fresh:
            (fresh / "model.onnx").write_bytes(bytes(2_000_000))
        assert (caught.value.code, caught.value.got) == ("CC600", "No space left on device")
        assert words(out) == OLD
        write(out, "new", FEWER)
        assert words(out) == NEW
        assert hidden(out) == []
    finally:
        subprocess.run(["umount", str(out)], check=True)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "file/out", "file"])
def test_folders_that_cannot_be(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(CompresscError) as caught, staged(tmp_path / name):
        raise AssertionError("never here")
    assert caught.value.code == "CC600"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
