"""`compressc inspect model.pt`: the IR, and what each op costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from compressc.cli.coverage import CoverageRequest, parse_request, show_coverage
from compressc.cli.model_options import (
    DataOption,
    FactoryOption,
    InputsOption,
    ModelArgument,
    TrustPickleOption,
    load_from_options,
    open_optional,
)

if TYPE_CHECKING:
    from rich.table import Table

    from compressc.ir import Graph


def inspect(  # noqa: PLR0913  (each is an option of the command line)
    model: ModelArgument,
    data: DataOption = None,
    inputs: InputsOption = None,
    trust_pickle: TrustPickleOption = False,
    factory: FactoryOption = None,
    batch: Annotated[int, typer.Option(min=1, help="Batch size that costs are given for.")] = 1,
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
    as_json: Annotated[bool, typer.Option("--json", help="Coverage as JSON.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Coverage of each op in a row of its own.")
    ] = False,
) -> None:
    """Print a model as graph text and a table of what its ops cost, or what passes can do with it.

    --for and --strict imply --coverage.
    """
    from rich.console import Console

    request = CoverageRequest(passes, strict, as_json, everything)
    asked = parse_request(coverage, request)  # before the model is read, which may take long
    loaded = load_from_options(
        model, data=data, inputs=inputs, trust_pickle=trust_pickle, factory=factory
    )
    if asked is not None:
        show_coverage(loaded.graph, asked, open_optional(data), request)
        return
    typer.echo(str(loaded.graph))
    Console().print(_cost_table(loaded.graph, batch))


def _cost_table(graph: Graph, batch: int) -> Table:
    from rich.table import Table

    from compressc.analysis import cost_rows, total_cost

    dimensions = {"b": batch}
    table = Table(title=f"cost at batch {batch}", title_justify="left")
    table.add_column("op")
    table.add_column("kind")
    for name in ("parameters", "bytes", "MACs", "result bytes"):
        table.add_column(name, justify="right")
    for op, cost in cost_rows(graph, **dimensions):
        numbers = (cost.parameters, cost.bytes, cost.macs, cost.activation_bytes)
        table.add_row(op.name, op.kind, *(f"{number:,}" for number in numbers))
    total = total_cost(graph, **dimensions)
    numbers = (total.parameters, total.bytes, total.macs, total.activation_bytes)
    table.add_section()
    table.add_row(f"all {len(graph)} ops", "", *(f"{number:,}" for number in numbers))
    return table
