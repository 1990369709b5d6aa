"""`compressc inspect model.pt`: what it is made of, and what each op costs."""

from __future__ import annotations

from typing import Annotated

import typer

from compressc.cli.coverage import CoverageRequest, parse_request, show_coverage
from compressc.cli.model_options import (
    DataOption,
    ModelArgument,
    ModelOptions,
    load_from_options,
    open_optional,
)
from compressc.cli.overview import show_overview
from compressc.cli.sizes import BatchOption, SizeOption, open_sizes_of
from compressc.cli.spreading import spread


@spread
def inspect(  # noqa: PLR0913  (each is an option of the command line)
    model: ModelArgument,
    *,
    data: DataOption = None,
    given: ModelOptions,
    batch: BatchOption = 1,
    size: SizeOption = None,
    text: Annotated[
        bool | None,
        typer.Option("--text/--no-text", help="Print the graph. Default: up to 100 ops."),
    ] = None,
    coverage: Annotated[
        bool, typer.Option("--coverage", help="Say instead what passes can do with each op.")
    ] = False,
    passes: Annotated[
        str, typer.Option("--for", help="Passes to ask: prune(ratio=0.3),quant. Default: all.")
    ] = "",
    strict: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Exit with 6 if a pass reaches less of the parameters."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Each op in a row of its own, also in repeated blocks.")
    ] = False,
) -> None:
    """Print what a model is made of, its repeated blocks and what its ops cost.

    Or, with --coverage, what passes can do with each op.

    --for and --strict imply --coverage.
    """
    request = CoverageRequest(passes, strict, as_json, everything)
    asked = parse_request(coverage, request)  # before the model is read, which may take long
    dataset = open_optional(data)
    loaded = load_from_options(model, given, dataset)
    if asked is not None:
        from compressc.frontend import fit_data

        fitted = None if dataset is None else fit_data(loaded.graph, dataset)
        show_coverage(loaded.graph, asked, fitted, request)
        return
    sizes = open_sizes_of([loaded.graph], batch, size)
    show_overview(loaded, sizes, text=text, every=everything, as_json=as_json)
