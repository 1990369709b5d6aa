"""The options by which every command is given a model, and the one way to load it from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from compressc.data import Dataset
    from compressc.frontend import Loaded

ModelArgument = Annotated[
    str, typer.Argument(help="Model file or folder; its format is told by content.")
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data", help="A data set's name, a file or folder of arrays, or file.py:function."
    ),
]
WorkersOption = Annotated[
    int,
    typer.Option(
        "--workers", min=0, max=256, help="Processes that make samples ahead, for data from code."
    ),
]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How a model is read: options of each command that reads one (see `cli.spreading`)."""

    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            help='Example input: "x: f32[b,3,32,32]", "batch.ids: i64[b,s]", "flag: True".',
        ),
    ] = None
    trust_pickle: Annotated[
        bool,
        typer.Option(
            "--trust-pickle", help="Load a pickled module or TorchScript, which runs its code."
        ),
    ] = False
    factory: Annotated[
        str | None,
        typer.Option("--factory", help="pkg.mod:function that builds the module of a state dict."),
    ] = None
    state_key: Annotated[
        str | None,
        typer.Option(
            "--state-key", help="Where in a checkpoint the weights are: ema, model.student."
        ),
    ] = None
    ignore_extra: Annotated[
        bool,
        typer.Option("--ignore-extra", help="Leave out tensors that the factory's module has not."),
    ] = False
    dtype: Annotated[
        str, typer.Option("--dtype", help="float32 converts other floats; keep leaves them.")
    ] = "float32"

    def keywords(self) -> dict[str, Any]:
        """As arguments of `compressc.session.read_model` and `open_session`."""
        return {**vars(self), "inputs": self.inputs or ()}


@dataclass(frozen=True, kw_only=True)
class SessionOptions(ModelOptions):
    """How a model and what it learns from are read, where it is trained or judged."""

    workers: WorkersOption = 0
    augment: Annotated[
        str,
        typer.Option(
            "--augment",
            help="Done to training samples: flip,shift(pixels=2), file.py:function.",
        ),
    ] = ""
    task: Annotated[
        str | None,
        typer.Option(
            "--task",
            help="What the model is for: a task's name or file.py:Class; else inferred.",
        ),
    ] = None
    judged: Annotated[
        str | None,
        typer.Option("--judged", help="Output to learn and judge, of several: its key or name."),
    ] = None


def load_from_options(model: str, options: ModelOptions, dataset: Dataset | None = None) -> Loaded:
    """Load a model as the command line describes it, its sizes written over width symbols.

    Raises:
        CompresscError: CC2xx for the model.
    """
    from compressc.analysis import symbolize_widths
    from compressc.session import read_model

    loaded = read_model(model, dataset, **options.keywords())
    for note in loaded.notes:
        typer.echo(f"note: {note}", err=True)
    symbolize_widths(loaded.graph)
    return loaded


def open_optional(data: str | None) -> Dataset | None:
    """The data set of `--data`, where it is given.

    Raises:
        CompresscError: CC107, CC300.
    """
    from compressc.data import open_dataset

    return None if data is None else open_dataset(data)
