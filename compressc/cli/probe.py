"""`compressc probe model.pt -o probe/`: what to run on another device, to know its times."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compressc.cli.model_options import (
    DataOption,
    ModelArgument,
    ModelOptions,
)
from compressc.cli.sizes import SizeOption, batch_sizes, open_sizes_of
from compressc.cli.spreading import spread


@spread
def probe(  # noqa: PLR0913  (each is an option of the command line)
    model: ModelArgument,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the probe.")],
    data: DataOption = None,
    given: ModelOptions,
    batches: Annotated[str, typer.Option(help="Batch sizes at which time counts.")] = "1",
    size: SizeOption = None,
    threads: Annotated[int, typer.Option(min=1, max=1024, help="Of the runtime there.")] = 1,
    normalized: Annotated[
        bool, typer.Option("--normalized", help="Also for prune(normalized=True).")
    ] = False,
) -> None:
    """Write a folder that tells, on the device it is run on, how long the model's layers take.

    There `python measure.py` needs onnxruntime and numpy; its table.json is for
    prune(latency=0.5, table=table.json).
    """
    from compressc.analysis import sizes_of
    from compressc.ir import random_inputs
    from compressc.probe import write_probe
    from compressc.report import staged
    from compressc.session import open_session

    wanted = batch_sizes(batches) or (1,)
    session = open_session(
        model,
        data=data,
        **given.keywords(),
    )
    graph, dataset = session.loaded.graph, session.data
    if dataset is None:
        sizes, example = open_sizes_of([graph], 1, size), random_inputs(graph)
    else:
        sizes = sizes_of(graph, dataset.calibration.take(1).inputs)
        example = dataset.calibration.take(4).inputs
    with staged(output) as scratch:
        count = write_probe(
            graph,
            scratch,
            batches=wanted,
            threads=threads,
            sizes=sizes,
            example=example,
            name=Path(model).name,
            normalized=normalized,
        )
    typer.echo(f"wrote {output}/: {count} models and measure.py")
    typer.echo("on the device: python measure.py (needs onnxruntime and numpy), for table.json")
