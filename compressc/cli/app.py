"""The command group. `compressc model.pt ...` is short for `compressc compile model.pt ...`."""

from __future__ import annotations

import difflib
import os

import typer

from compressc.cli.bench import bench
from compressc.cli.cache import cache
from compressc.cli.choices import choices
from compressc.cli.compile import compile_command
from compressc.cli.condense import condense
from compressc.cli.diff import diff
from compressc.cli.doctor import doctor
from compressc.cli.explain import explain
from compressc.cli.explain_cut import explain_cut
from compressc.cli.importances import importances
from compressc.cli.inspect import inspect
from compressc.cli.objectives import objectives
from compressc.cli.opt import opt
from compressc.cli.passes import passes
from compressc.cli.probe import probe
from compressc.cli.run import run
from compressc.cli.study import study
from compressc.cli.synthesize import synthesize
from compressc.cli.teacher import teacher
from compressc.errors import CompresscError

DEFAULT = "compile"

app = typer.Typer(
    name="compressc",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="A compression compiler for PyTorch: compressc model.pt --passes prune,distill,quant",
)


def _version(wanted: bool) -> None:
    if wanted:
        from compressc import __version__

        typer.echo(f"compressc {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and stop."
    ),
) -> None:
    """Options of the group itself."""


app.command(DEFAULT)(compile_command)
app.command("inspect")(inspect)
app.command("diff")(diff)
app.command("opt")(opt)
app.command("teacher")(teacher)
app.command("synthesize")(synthesize)
app.command("condense")(condense)
app.add_typer(study, name="study")
app.command("passes")(passes)
app.command("objectives")(objectives)
app.command("importances")(importances)
app.command("explain")(explain)
app.command("explain-cut")(explain_cut)
app.command("choices")(choices)
app.command("probe")(probe)
app.command("run")(run)
app.command("bench")(bench)
app.command("cache")(cache)
app.command("doctor")(doctor)


def with_default(arguments: list[str]) -> list[str]:
    """The arguments with the default command in front where the first word names none.

    Raises:
        CompresscError: CC100 where it is no file, but nearly a command.
    """
    commands = [command.name or "" for command in app.registered_commands]
    commands += [group.name or "" for group in app.registered_groups]
    if not arguments:
        return ["--help"]
    first = arguments[0]
    if first in (*commands, "--help", "--version"):
        return arguments
    near = difflib.get_close_matches(first, commands, 1, cutoff=0.75)
    if near and not os.path.lexists(first):
        wanted = "a command, or the file or folder of a model"
        raise CompresscError("CC100", wanted, got=repr(first), hint=f"did you mean '{near[0]}'?")
    return [DEFAULT, *arguments]
