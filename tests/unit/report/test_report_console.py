"""What is printed is what was given, in every place that rich would read as markup."""

import io
from functools import partial

import pytest
from rich.padding import Padding
from rich.table import Table

from compressc import cli
from compressc.backend import executorch
from compressc.cli.progress import progress_bar
from compressc.events import Event
from compressc.report import console as module_under_test
from compressc.report.console import Console

TEXTS = ["pip install 'compressc[litert]'", "runs[1]/x", "[bold]a[/bold]", "[/]", ":x:", r"\[a]"]


def table(text: str) -> Table:
    made = Table(text, title=f"over {text}", caption=f"under {text}")
    made.add_row(f"in {text}")
    return made


@pytest.mark.parametrize("text", TEXTS)
def test_brackets_and_colons_stay(text):
    out = io.StringIO()
    console = Console(file=out, width=100)
    for what in (f"alone {text}", Padding(f"beside {text}", 1), table(text)):
        console.print(what)
    for place in ("alone", "beside", "over", "in", "under"):
        assert f"{place} {text}" in out.getvalue()


def test_nothing_is_coloured_that_has_no_style():
    out = io.StringIO()
    Console(file=out, width=100, force_terminal=True, color_system="standard").print("a 1 'b'")
    assert out.getvalue() == "a 1 'b'\n"


@pytest.mark.parametrize("text", TEXTS)
def test_the_progress_bar_shows_texts_as_they_are(text, monkeypatch):
    out = io.StringIO()
    forced = partial(Console, file=out, width=200, force_terminal=True)
    monkeypatch.setattr(module_under_test, "Console", lambda **_: forced())
    facts = {"what": text, "done": 1, "total": 2}
    choice = {"option": "epochs", "value": 2, "reason": text}
    with progress_bar() as tell:
        tell(Event("progress", facts))
        tell(Event("chosen", {"pass": "distill", "choices": [choice]}))
    assert f"distill: epochs=2 ({text})" in out.getvalue()
    assert out.getvalue().count(text) > 1


def test_doctor_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(executorch, "find_spec", lambda name: None)
    monkeypatch.setenv("COLUMNS", "160")
    assert cli.main(["doctor"]) == 0
    assert "the package executorch: pip install 'compressc[executorch]'" in capsys.readouterr().out
