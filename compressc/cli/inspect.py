"""`compressc inspect model.pt`: the IR, and what each op costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from compressc.cli.model_options import (
    DataOption,
    FactoryOption,
    InputsOption,
    ModelArgument,
    TrustPickleOption,
    load_from_options,
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
) -> None:
    """Print a model as graph text and a table of what its ops cost."""
    from rich.console import Console

    loaded = load_from_options(
        model, data=data, inputs=inputs, trust_pickle=trust_pickle, factory=factory
    )
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
