"""The command group. `compressc model.pt ...` is short for `compressc compile model.pt ...`."""

from __future__ import annotations

import click
import typer
from typer.core import TyperGroup

from compressc.cli.compile import compile_command
from compressc.cli.doctor import doctor
from compressc.cli.explain import explain
from compressc.cli.inspect import inspect
from compressc.cli.passes import passes

DEFAULT = "compile"


class DefaultCommand(TyperGroup):
    """A group whose first argument may be a model instead of a command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default command in front where the first word names none."""
        own = {"--help", "--version", "--install-completion", "--show-completion"}
        if args and args[0] not in self.commands and args[0] not in own:
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="compressc",
    cls=DefaultCommand,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="A compression compiler for PyTorch models: compressc model.pt --passes prune,distill,quant",
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
app.command("passes")(passes)
app.command("explain")(explain)
app.command("doctor")(doctor)
