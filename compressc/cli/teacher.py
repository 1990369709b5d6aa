"""`compressc teacher model.pt --data d -o answers/`: a teacher's answers, written ahead."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from compressc.cli.model_options import (
    DataOption,
    ModelArgument,
    SessionOptions,
)
from compressc.cli.progress import progress_bar
from compressc.cli.spreading import spread


@spread
def teacher(  # noqa: PLR0913  (each is an option of the command line)
    model: ModelArgument,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the answers.")],
    data: DataOption = None,
    given: SessionOptions,
    answers_dtype: Annotated[
        Literal["float32", "float16", "bfloat16"], typer.Option(help="Of the answers.")
    ] = "float32",
    top: Annotated[
        int,
        typer.Option(
            min=0,
            help="Of class scores so many of the largest, and all others together; 0 for all.",
        ),
    ] = 0,
    temperature: Annotated[
        float, typer.Option(min=1e-3, max=1000.0, help="T of the loss that --top is for.")
    ] = 1.0,
    views: Annotated[
        int, typer.Option(min=0, help="Views of each sample, where data are augmented.")
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the views.")] = 0,
    device: Annotated[str, typer.Option(help="Where the teacher runs: cpu, cuda.")] = "cpu",
) -> None:
    """Write what a teacher answers to the training samples, for distill(answers_from=folder).

    Killed, the same command goes on where it was.
    """
    from compressc.asking import ask_teacher
    from compressc.cli.cache import bytes_text
    from compressc.session import open_session

    session = open_session(
        model,
        data=data,
        **given.keywords(),
    )
    with progress_bar() as tell:
        asked = ask_teacher(
            session,
            output,
            dtype=answers_dtype,
            top=top,
            temperature=temperature,
            views=views,
            seed=seed,
            device=device,
            tell=tell,
        )
    if asked.replaced:
        typer.echo("answers of another teacher or other samples were replaced")
    before = f", {asked.before:,} of them were there" if asked.before else ""
    typer.echo(f"{asked.rows:,} answers{before}: {', '.join(asked.values)}")
    typer.echo(f"wrote {output}/, {bytes_text(asked.bytes)}")
