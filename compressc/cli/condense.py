"""`compressc condense --data d --per-class 10 -o small.npz`: few samples that teach as many do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compressc.cli.model_options import WorkersOption
from compressc.cli.progress import progress_bar
from compressc.cli.spreading import spread
from compressc.cli.training_options import TrainingOptions


@spread
def condense(  # noqa: PLR0913  (each is an option of the command line)
    *,
    data: Annotated[
        str,
        typer.Option(
            "--data", help="A data set's name, a file or folder of arrays, or file.py:function."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .npz file to write.")],
    per_class: Annotated[int, typer.Option(min=1, help="Samples of each class.")] = 10,
    method: Annotated[
        str, typer.Option(help="matching(steps=1000), kernel, herding, random.")
    ] = "matching",
    workers: WorkersOption = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of every random choice.")] = 0,
    training: TrainingOptions,
) -> None:
    """Condense the training part of data to a few samples of each class, for --data.

    The file has the test part beside them, as it was. Killed, the same command goes on.
    """
    from compressc.cli.cache import bytes_text
    from compressc.condensing import condense as make
    from compressc.data import open_dataset
    from compressc.errors import CompresscError
    from compressc.making import write

    if output.suffix != ".npz":
        raise CompresscError("CC100", "samples are written into a .npz file", got=str(output))
    dataset = open_dataset(data, workers)
    said: list[str] = []
    with progress_bar() as tell:
        x, y = make(
            dataset,
            per_class,
            method,
            seed=seed,
            tell=tell,
            say=said.append,
            **training.keywords(),
        )
    test = dataset.test.take(len(dataset.test))
    write({"x_train": x, "y_train": y, "x_test": test.inputs[0], "y_test": test.labels}, output)
    for text in said:
        typer.echo(text)
    size = bytes_text(output.stat().st_size)
    typer.echo(
        f"wrote {output}, {len(x):,} of {len(dataset.train):,} samples to learn from, {size}"
    )
