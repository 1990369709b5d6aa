"""`compressc synthesize teacher.pt -n 2000 -o synth.npz`: samples for runs without data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compressc.cli.model_options import (
    DtypeOption,
    FactoryOption,
    IgnoreExtraOption,
    InputsOption,
    ModelArgument,
    StateKeyOption,
    TrustPickleOption,
)
from compressc.cli.progress import progress_bar


def synthesize(  # noqa: PLR0913  (each is an option of the command line)
    model: ModelArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The .npz file to write.")],
    method: Annotated[
        str, typer.Option(help="How they are made: deepinversion(steps=300).")
    ] = "deepinversion",
    count: Annotated[int, typer.Option("--count", "-n", help="How many samples.")] = 2000,
    inputs: InputsOption = None,
    trust_pickle: TrustPickleOption = False,
    factory: FactoryOption = None,
    state_key: StateKeyOption = None,
    ignore_extra: IgnoreExtraOption = False,
    dtype: DtypeOption = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Of every random choice.")] = 0,
    device: Annotated[str, typer.Option(help="Where the teacher runs: cpu, cuda.")] = "cpu",
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Keep no checkpoints.")] = False,
    checkpoint_every: Annotated[
        float, typer.Option(min=0.0, help="Seconds of work that a crash may cost.")
    ] = 60.0,
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
    loaded = read_model(
        model,
        None,
        inputs or (),
        trust_pickle=trust_pickle,
        factory=factory,
        state_key=state_key,
        ignore_extra=ignore_extra,
        dtype=dtype,
    )
    said: list[str] = []
    with progress_bar() as tell:
        made = make(
            loaded.graph,
            method,
            count,
            seed=seed,
            device=device,
            cache=None if no_cache else "default",
            checkpoint_every=checkpoint_every,
            tell=tell,
            say=said.append,
        )
    write(made, output)
    for text in said:
        typer.echo(text)
    typer.echo(f"wrote {output}, {len(made[0]):,} samples, {bytes_text(output.stat().st_size)}")
