"""Who listens to a run: one that fails is left out, and what was told is on the disk."""

import json
from contextlib import contextmanager
from datetime import datetime

import pytest

from compressc import observers
from compressc.errors import CompresscError
from compressc.events import Event
from compressc.observers import Audience, Observer, audience, event_log, parse_observers


class Counting(Observer):
    name = "counting"
    most: int = 2

    @contextmanager
    def listening(self):
        heard = []

        def tell(event):
            if len(heard) == self.most:
                raise ValueError("full")
            heard.append(event.kind)

        yield tell
        LEFT.append(heard)


LEFT: list[list[str]] = []


def test_an_observer_that_fails_is_told_nothing_more_and_the_others_hear_on():
    LEFT.clear()
    told = []
    with audience([Counting(most=1), Counting(most=9)], {"bar": told.append}) as heard:
        for kind in ("run", "pass", "done"):
            heard(Event(kind))
    assert [event.kind for event in told] == ["run", "pass", "done"]
    assert LEFT == [["run", "pass", "done"], ["run"]]  # closed, the last one first
    with pytest.raises(CompresscError) as caught:
        heard.require_all()
    assert caught.value.code == "CC700"
    assert caught.value.wanted == "observer counting(most=1) hears of all events"
    assert caught.value.got == "ValueError: full"


def test_who_heard_all_is_no_error():
    Audience({"bar": lambda event: None}).require_all()


def test_an_observer_that_cannot_begin_ends_the_run_before_any_work():
    class Broken(Counting):
        name = "broken"

        def listening(self):
            raise OSError("no such device")

    with pytest.raises(CompresscError, match="CC600"), audience([Broken()]):
        pytest.fail("it must not begin")


def test_the_log_has_a_line_for_each_event(tmp_path):
    path = tmp_path / "run.jsonl"
    for _ in range(2):  # lines are added
        with event_log(path) as tell:
            tell(Event("pass", {"pass": "quant", "number": 1}))
            assert "quant" in path.read_text()  # as it happens
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 2
    assert datetime.fromisoformat(lines[0].pop("time")).tzinfo is not None
    assert lines[0] == {"event": "pass", "pass": "quant", "number": 1}


def test_of_progress_there_is_a_line_a_second_and_the_last_one(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(observers.time, "monotonic", lambda: now)
    with event_log(tmp_path / "log") as tell:
        for done in range(1, 26):
            now += 0.125
            tell(Event("progress", {"what": "x", "done": done, "total": 25}))
    lines = (tmp_path / "log").read_text().splitlines()
    assert [json.loads(line)["done"] for line in lines] == [1, 9, 17, 25]


def test_a_log_that_cannot_be_written(tmp_path):
    with pytest.raises(CompresscError, match="CC600"), event_log(tmp_path):
        pytest.fail("a folder is no file")


def test_observers_as_text():
    (found,) = parse_observers("tensorboard(folder=curves)")
    assert found.text == "tensorboard(folder=curves)"
    assert parse_observers("") == []
    with pytest.raises(CompresscError, match=r"CC107.*tensorboard"):
        parse_observers("tensorbord")
