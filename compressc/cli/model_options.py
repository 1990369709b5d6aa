"""The options by which every command is given a model, and the one way to load it from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

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
AugmentOption = Annotated[
    str,
    typer.Option(
        "--augment",
        help="Done to training samples: flip,shift(pixels=2), file.py:function.",
    ),
]
InputsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input", help='Example input: "x: f32[b,3,32,32]", "batch.ids: i64[b,s]", "flag: True".'
    ),
]
TrustPickleOption = Annotated[
    bool,
    typer.Option(
        "--trust-pickle", help="Load a pickled module or TorchScript, which runs its code."
    ),
]
FactoryOption = Annotated[
    str | None,
    typer.Option("--factory", help="pkg.mod:function that builds the module of a state dict."),
]

StateKeyOption = Annotated[
    str | None,
    typer.Option("--state-key", help="Where in a checkpoint the weights are: ema, model.student."),
]
IgnoreExtraOption = Annotated[
    bool,
    typer.Option("--ignore-extra", help="Leave out tensors that the factory's module has not."),
]
DtypeOption = Annotated[
    str, typer.Option("--dtype", help="float32 converts other floats; keep leaves them.")
]


def load_from_options(  # noqa: PLR0913  (each is an option of the command line)
    model: str,
    *,
    dataset: Dataset | None = None,
    inputs: Sequence[str] | None = None,
    trust_pickle: bool = False,
    factory: str | None = None,
    state_key: str | None = None,
    ignore_extra: bool = False,
    dtype: str = "float32",
) -> Loaded:
    """Load a model as the command line describes it, its sizes written over width symbols.

    Raises:
        CompresscError: CC2xx for the model.
    """
    from compressc.analysis import symbolize_widths
    from compressc.session import read_model

    loaded = read_model(
        model,
        dataset,
        inputs,
        trust_pickle=trust_pickle,
        factory=factory,
        state_key=state_key,
        ignore_extra=ignore_extra,
        dtype=dtype,
    )
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
