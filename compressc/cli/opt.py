"""`compressc opt graph.txt --passes prune`: passes on a graph in text form, for their authors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compressc.cli.model_options import DataOption, open_optional
from compressc.errors import CompresscError

if TYPE_CHECKING:
    from compressc.ir import Graph
    from compressc.pipeline import PassResult

#: Bytes of text that are read: a graph of 100,000 ops has about 20 MB.
_MOST = 1 << 28


def opt(  # noqa: PLR0913  (each is an option of the command line)
    graph: Annotated[Path, typer.Argument(help="Graph text, or the folder of a bundle.")],
    passes: Annotated[str, typer.Option("--passes", "-p", help="prune(ratio=0.5),simplify")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File for the text after; a folder gets a bundle."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Safetensors file. Default: beside the text, or random.")
    ] = None,
    data: DataOption = None,
    seed: Annotated[int, typer.Option(help="Of random weights and of the passes.")] = 0,
) -> None:
    """Run passes on a graph in text form and print the text after them.

    Each is verified as in a compilation. Notes go to standard error.
    """
    from compressc.frontend import fit_data
    from compressc.pipeline import Pipeline, parse_passes, plan

    asked = parse_passes(passes)
    dataset = open_optional(data)
    plan(asked, dataset)  # a list that cannot work is refused before the graph is read
    given = read_graph(graph, weights, seed)
    fitted = None if dataset is None else fit_data(given, dataset)
    results = Pipeline(asked, fitted, seed).run(given)
    for result in results:
        _say(result)
    _write(results[-1].graph, output)


def read_graph(path: Path, weights: Path | None, seed: int) -> Graph:
    """A graph from its text, with the weights given, those beside it, or random ones.

    Raises:
        CompresscError: CC402 for the text, CC403 for the weights.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from compressc.ir import load_bundle, parse_graph, random_weights
    from compressc.ir.bundle import TEXT, WEIGHTS
    from compressc.strangers import regular_file

    if path.is_dir():
        return load_bundle(path)
    if weights is None and path.name == TEXT and (path.parent / WEIGHTS).exists():
        return load_bundle(path.parent)
    regular_file(path, "CC402", "graph text is a file", most=_MOST)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        got = str(error)
        raise CompresscError("CC402", "graph text is UTF-8", got=got, where=str(path)) from error
    if weights is None:
        return parse_graph(text, random_weights(parse_graph(text), seed))
    regular_file(weights, "CC403", "weights are a safetensors file")
    try:
        return parse_graph(text, load_file(weights))
    except (OSError, SafetensorError) as error:
        wanted = "weights are a safetensors file"
        raise CompresscError("CC403", wanted, got=str(error), where=str(weights)) from error


def _say(result: PassResult) -> None:
    edits = ", ".join(f"{name} {count}" for name, count in sorted(result.edits.items()))
    typer.echo(f"{result.step.pass_.text}: {edits or 'no edits'}", err=True)
    for op, text in result.notes:
        typer.echo(f"  {f'%{op}: ' if op else ''}{text}", err=True)


def _write(graph: Graph, output: Path | None) -> None:
    """Text to standard output or into a file, a bundle where the name has no ending.

    Raises:
        CompresscError: CC600 where it cannot be written.
    """
    from compressc.durable import write_text
    from compressc.ir import save_bundle

    try:
        if output is None:
            typer.echo(str(graph), nl=False)
        elif output.suffix:
            write_text(output, str(graph))
        else:
            save_bundle(graph, output)
    except OSError as error:
        wanted, got = "the text can be written", error.strerror or str(error)
        raise CompresscError("CC600", wanted, got=got, where=str(output)) from error
