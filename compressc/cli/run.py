"""`compressc run out/ --format onnx --data x.npz -o y.npz`: a file's answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compressc.cli.model_options import WorkersOption
from compressc.cli.progress import progress_bar

FolderArgument = Annotated[Path, typer.Argument(help="An output folder of compressc.")]
ThreadsOption = Annotated[int, typer.Option(min=1, max=1024, help="Threads of the runtime.")]


def run(  # noqa: PLR0913  (each is an option of the command line)
    folder: FolderArgument,
    data: Annotated[str, typer.Option("--data", help="As for compile; in the order of the file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .npz file of the answers.")],
    format_: Annotated[
        str, typer.Option("--format", help="Which file: pt2, onnx, ...; the first if not given.")
    ] = "",
    part: Annotated[str, typer.Option(help="Part of divided data: train, calibration, test.")] = "",
    workers: WorkersOption = 0,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Samples at a time.")] = 32,
    threads: ThreadsOption = 1,
) -> None:
    """Run a file that compressc wrote in its own runtime, on every sample in order.

    The answers are arrays by the names of the outputs, one row for each sample.
    """
    from compressc.data import open_part
    from compressc.data.npz import write_npz
    from compressc.report.atomic import replacing
    from compressc.written import Written, run_file

    written = Written.read(folder)
    file = written.file(format_)
    samples = written.samples(open_part(data, part, workers), data)
    with progress_bar() as tell:
        answers = run_file(written, file, samples, batch=batch, threads=threads, tell=tell)
    with replacing(output) as aside:
        write_npz(aside, answers)
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in answers.items())
    typer.echo(f"wrote {output}: {shapes}, by {file.backend.runtime} from {file.path}")
