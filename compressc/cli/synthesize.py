"""`compressc synthesize teacher.pt -n 2000 -o synth.npz`: samples for runs without data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compressc.cli.model_options import (
    ModelArgument,
    ModelOptions,
)
from compressc.cli.progress import progress_bar
from compressc.cli.spreading import spread
from compressc.cli.training_options import TrainingOptions


@spread
def synthesize(  # noqa: PLR0913  (each is an option of the command line)
    model: ModelArgument,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The .npz file to write.")],
    method: Annotated[
        str, typer.Option(help="How they are made: deepinversion(steps=300).")
    ] = "deepinversion",
    count: Annotated[int, typer.Option("--count", "-n", help="How many samples.")] = 2000,
    given: ModelOptions,
    seed: Annotated[int, typer.Option(min=0, help="Of every random choice.")] = 0,
    training: TrainingOptions,
) -> None:
    """Make samples from a teacher alone, for --data: its answers to them are what is learned.

    Killed, the same command goes on where it was.
    """
    from compressc.cli.cache import bytes_text
    from compressc.errors import CompresscError
    from compressc.session import read_model
    from compressc.synthesizing import synthesize as make
    from compressc.synthesizing import write

    if output.suffix != ".npz":
        raise CompresscError("CC100", "samples are written into a .npz file", got=str(output))
    loaded = read_model(model, None, **given.keywords())
    said: list[str] = []
    with progress_bar() as tell:
        made = make(
            loaded.graph,
            method,
            count,
            seed=seed,
            tell=tell,
            say=said.append,
            **training.keywords(),
        )
    write(made, output)
    for text in said:
        typer.echo(text)
    typer.echo(f"wrote {output}, {len(made[0]):,} samples, {bytes_text(output.stat().st_size)}")
