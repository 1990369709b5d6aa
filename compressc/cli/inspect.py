"""`compressc inspect model.pt`: the IR, and what each op costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from compressc.ir import Graph


def inspect(  # noqa: PLR0913  (each is an option of the command line)
    model: Annotated[str, typer.Argument(help="Model file or folder.")],
    data: Annotated[str | None, typer.Option(help="Data set to take example inputs from.")] = None,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help='Example input: "x: f32[b,3,32,32]".')
    ] = None,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Load a pickled module, which runs its code.")
    ] = False,
    factory: Annotated[
        str | None, typer.Option(help="pkg.mod:function that builds the module of a state dict.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Batch size that costs are given for.")] = 1,
) -> None:
    """Print a model as graph text and a table of what its ops cost."""
    from rich.console import Console

    from compressc.analysis import symbolize_widths
    from compressc.data import open_dataset
    from compressc.frontend import load_model

    example = None if data is None else open_dataset(data).calibration.take(8).inputs
    loaded = load_model(
        model,
        example=example,
        input_spec=inputs or (),
        trust_pickle=trust_pickle,
        factory=factory,
    )
    symbolize_widths(loaded.graph)
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
