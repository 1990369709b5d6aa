"""Groups of options: a command has the fields of its groups, and gets the groups."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from compressc.cli.spreading import spread


@dataclass(frozen=True, kw_only=True)
class Size:
    """Two options."""

    width: Annotated[int, typer.Option(min=1)] = 3
    tall: Annotated[bool, typer.Option("--tall")] = False


@spread
def draw(
    name: Annotated[str, typer.Argument()],
    *,
    color: Annotated[str, typer.Option("--color")] = "red",
    size: Size,
) -> None:
    typer.echo(f"{name} {color} {size}")


app = typer.Typer()
app.command()(draw)


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["box"], "box red Size(width=3, tall=False)"),
        (["box", "--tall", "--width", "5"], "box red Size(width=5, tall=True)"),
        (["box", "--color", "blue"], "box blue Size(width=3, tall=False)"),
    ],
)
def test_a_group_is_made_of_what_its_options_say(words: list[str], printed: str) -> None:
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, done.stdout.strip()) == (0, printed)


def test_fields_keep_their_bounds() -> None:
    done = CliRunner().invoke(app, ["box", "--width", "0"])
    assert done.exit_code == 2
    assert "--width" in done.stderr


def test_options_come_where_the_group_was() -> None:
    assert list(inspect.signature(draw).parameters) == ["name", "color", "width", "tall"]


def test_two_options_of_one_name_are_a_fault_of_the_command() -> None:
    def twice(*, width: int, size: Size) -> None: ...

    twice.__annotations__ = {"width": int, "size": Size}
    with pytest.raises(ValueError, match="duplicate parameter name: 'width'"):
        spread(twice)
