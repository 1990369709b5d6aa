"""What a pass keeps while it is at work, found again by the same command and by no other."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import ClassVar

import pytest

from compressc import durable
from compressc.ir import Graph, graph_hash
from compressc.pipeline import Context, Pass, PassCache, Pipeline, Store
from tests.unit.pipeline.pipeline_passes import Scale, data, small_graph

pytestmark = pytest.mark.usefixtures("passes")


class Killed(BaseException):
    """In place of kill -9: nothing of ours catches it."""


class Long(Scale):
    """Ten steps of work, each kept."""

    name: ClassVar[str] = "long"
    done: ClassVar[list[int]] = []
    dies_at: ClassVar[int] = 0

    def run(self, graph: Graph, ctx: Context) -> None:
        place = ctx.store.place("steps")
        kept = place / "count" if place else None
        start = int(kept.read_text()) if kept and kept.exists() else 0
        for number in range(start + 1, 11):
            if number == self.dies_at:
                raise Killed
            self.done.append(number)
            if kept:
                kept.write_text(str(number))
        super().run(graph, ctx)


@pytest.fixture(autouse=True)
def start(monkeypatch):
    monkeypatch.setattr(Long, "done", [])


def run(folder: Path | None, pass_: Pass, *, dies_at: int = 0, **options):
    Long.dies_at = dies_at
    return Pipeline([pass_], cache=PassCache(folder), **options).run(small_graph())[0]


def texts(result) -> list[str]:
    return [text for op, text in result.notes if not op]


def unfinished(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.unfinished"))


def test_the_same_command_goes_on_and_leaves_nothing(tmp_path):
    want = run(None, Long())
    Long.done.clear()
    with pytest.raises(Killed):
        run(tmp_path, Long(), dies_at=6)
    assert len(unfinished(tmp_path)) == 1
    result = run(tmp_path, Long())
    assert Long.done == list(range(1, 11))
    assert graph_hash(result.graph) == graph_hash(want.graph)
    assert not unfinished(tmp_path)
    assert run(tmp_path, Long()).cached


@pytest.mark.parametrize(
    ("pass_", "options", "word"),
    [
        (Long(by=3.0), {}, "options"),
        (Long(), {"seed": 1}, "seed"),
        (Long(), {"data": data(1)}, "data"),
    ],
)
def test_another_command_begins_anew_and_says_why(tmp_path, pass_, options, word):
    with pytest.raises(Killed):
        run(tmp_path, Long(), dies_at=6, data=data(0))
    Long.done.clear()
    result = run(tmp_path, pass_, **{"data": data(0), **options})
    assert Long.done == list(range(1, 11))
    assert texts(result) == [f"begun anew: what was left unfinished is of other {word}"]
    assert len(unfinished(tmp_path)) == 1  # it may be wanted again
    again = run(tmp_path, pass_, **{"data": data(0), **options})
    assert again.cached
    assert not texts(again)  # that was of the other run


def test_another_model_on_other_data_is_nothing_to_speak_of(tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, Long(), dies_at=6, data=data(0))
    other = small_graph()
    for tensor in other.tensors().values():
        tensor.data.add_(1)
    Long.dies_at = 0
    for number, told in ((0, ["other weights or passes before it"]), (1, [])):
        result = Pipeline([Long()], cache=PassCache(tmp_path), data=data(number)).run(other)[0]
        assert texts(result) == [f"begun anew: what was left unfinished is of {x}" for x in told]


def test_killed_behind_its_result_leaves_nothing_once_that_is_read(tmp_path, monkeypatch):
    def clear(self):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Store, "clear", clear)
        with pytest.raises(Killed):
            run(tmp_path, Long())
    assert len(unfinished(tmp_path)) == 1
    assert run(tmp_path, Long()).cached
    assert not unfinished(tmp_path)


def test_other_code_begins_anew(tmp_path, monkeypatch):
    with pytest.raises(Killed):
        run(tmp_path, Long(), dies_at=6)
    monkeypatch.setattr(Long, "version", "2")
    assert texts(run(tmp_path, Long())) == [
        "begun anew: what was left unfinished is of other version of the pass"
    ]


def test_a_pass_that_asks_for_no_place_leaves_no_folder(tmp_path):
    run(tmp_path, Scale())
    assert len(list(tmp_path.iterdir())) == 1


def test_without_a_cache_nothing_is_kept():
    assert Store().place("steps") is None
    assert not texts(run(None, Long()))


def test_two_processes_do_not_share_a_place(tmp_path):
    said: list[str] = []
    first, second = Store(tmp_path / "a"), Store(tmp_path / "a", say=said.append)
    assert first.place("steps")
    assert second.place("steps") is None
    second.clear()
    assert said == ["no checkpoints: another process is at the same work"]
    assert (tmp_path / "a" / "steps").is_dir()
    first.close()
    assert Store(tmp_path / "a").place("steps")


def test_a_folder_that_cannot_be_made_costs_checkpoints_alone(tmp_path, monkeypatch):
    def refuse(folder: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(durable, "make_folder", refuse)
    result = run(tmp_path, Long())
    assert texts(result) == ["no checkpoints: [Errno 30] Read-only file system"]
    assert Long.done == list(range(1, 11))


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, '{"parts": 3}', '{"parts": {}}'])
def test_an_unfinished_folder_of_anybody_does_no_harm(tmp_path, content):
    place = tmp_path / f"{'0' * 64}.unfinished"
    place.mkdir()
    (place / "about.json").write_text(content)
    assert not texts(run(tmp_path, Long()))


def test_what_is_unfinished_counts_for_the_limit_and_is_listed(tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, Long(), dies_at=6)
    cache = PassCache(tmp_path)
    (entry,) = cache.entries()
    assert entry.unfinished == Long().text
    about = (entry.path / "about.json").read_bytes()
    assert json.loads(about)["text"] == Long().text
    assert entry.bytes == len(about) + len("5")
    assert cache.clear() == [entry]
    assert not unfinished(tmp_path)
