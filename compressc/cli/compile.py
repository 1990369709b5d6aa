"""`compressc model.pt --passes prune,distill,quant --data digits -o out/`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from compressc.cli.model_options import DataOption, ModelArgument, SessionOptions
from compressc.cli.progress import progress_bar
from compressc.cli.sizes import batch_sizes
from compressc.cli.spreading import spread
from compressc.errors import CompresscError
from compressc.spec import split_top_level

if TYPE_CHECKING:
    from compressc.observers import Audience
    from compressc.report import Record


Effort = Literal["quick", "normal", "thorough"]
Int8 = Literal["all", "gains"]


def _folder(text: str) -> Path:
    """An empty text would be the current folder, which nobody means."""
    if not text:
        raise typer.BadParameter("the folder's name is empty: write . for the current folder")
    return Path(text)


@spread
def compile_command(  # noqa: PLR0913  (each is an option of the command line)
    model: ModelArgument,
    *,
    passes: Annotated[
        str, typer.Option("--passes", "-p", help="prune(ratio=0.5),distill,quant")
    ] = "",
    output: Annotated[
        Path, typer.Option("--output", "-o", parser=_folder, help="Folder to write.")
    ] = Path("out"),
    data: DataOption = None,
    given: SessionOptions,
    emit: Annotated[str, typer.Option(help="Formats to write.")] = "pt2,onnx,openvino",
    batches: Annotated[
        str, typer.Option(help="Batch sizes to measure latency at; '' for no measurement.")
    ] = "1,64,256",
    threads: Annotated[
        int, typer.Option(min=1, help="Threads of a runtime where latency is measured.")
    ] = 1,
    device: Annotated[str, typer.Option(help="Where passes train: cpu, cuda.")] = "cpu",
    instruction_set: Annotated[
        str, typer.Option(help="Of the processor that will run the files; default: this one's.")
    ] = "",
    int8: Annotated[
        Int8,
        typer.Option(
            help="Layers in integers: all that were rounded, or where each runtime gains by it."
        ),
    ] = "all",
    effort: Annotated[
        Effort | None,
        typer.Option(help="How much time the result is worth; chooses what the passes leave open."),
    ] = None,
    compare_scratch: Annotated[
        bool,
        typer.Option("--compare-scratch", help="Train without the teacher, too; say what it does."),
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Seed of every random choice.")
    ] = 0,
    max_drop: Annotated[
        float | None,
        typer.Option(help="How much of the main score, 0 to 1, no file may lose; 0.01: one point."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail where a pass changed nothing.")
    ] = False,
    cache: Annotated[
        Path | None, typer.Option(parser=_folder, help="Folder for results of passes.")
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Keep no results of passes.")
    ] = False,
    checkpoint_every: Annotated[
        float,
        typer.Option(min=0.0, help="Seconds of a training that a crash may cost; needs the cache."),
    ] = 60.0,
    events: Annotated[
        Path | None, typer.Option(help="File to add events to, a line of JSON for each.")
    ] = None,
    observe: Annotated[
        str, typer.Option(help="Observers to tell of the run: tensorboard(folder=runs).")
    ] = "",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Compress a model and write files that are proved to run.

    --traceback shows where an error arose.
    """
    import compressc
    from compressc.backend import load_backend
    from compressc.gate import Gate
    from compressc.processes import joined, leave
    from compressc.report import make_writable, require_apart
    from compressc.target import Target

    sizes = batch_sizes(batches)
    formats = dict.fromkeys(name for part in split_top_level(emit) if (name := part.strip()))
    if not formats:
        raise CompresscError("CC100", "--emit names a format", got="none", hint="--emit onnx")
    gate = Gate(max_drop, strict)
    target = Target(tuple(formats), tuple(sizes), threads, device, instruction_set, int8)
    require_apart(output, model, [load_backend(name).suffix for name in formats])
    made = make_writable(output)
    try:
        with joined(device) as main, _listeners(events, observe, quiet, main) as heard:
            compiled = compressc.compile(
                model,
                passes,
                data=data,
                **given.keywords(),
                effort=effort,
                compare_scratch=compare_scratch,
                seed=seed,
                target=target,
                gate=gate,
                cache=None if no_cache else cache or "default",
                checkpoint_every=checkpoint_every,
                tell=heard,
            )
            leave()  # libraries that meet a group of processes wait for all of it
            if not main:
                return
            report = compiled.save(output, tell=heard)
    except BaseException:
        _remove_empty(made)
        raise
    if not quiet:
        _show(report, output)
    heard.require_all()
    gate.judge(report)


@contextmanager
def _listeners(events: Path | None, observe: str, quiet: bool, main: bool) -> Iterator[Audience]:
    """The progress bar, the log of events and the observers, open inside: in the main process."""
    from compressc.observers import audience, event_log, parse_observers

    if not main:
        events, observe, quiet = None, "", True
    observers = parse_observers(observe)
    with ExitStack() as opened:
        listeners = {"the progress bar": opened.enter_context(progress_bar(quiet))}
        if events is not None:
            listeners["--events"] = opened.enter_context(event_log(events))
        yield opened.enter_context(audience(observers, listeners))


def _show(report: Record, output: Path) -> None:
    from compressc.report import render
    from compressc.report.console import Console

    console = Console()
    render(report, console)
    console.print(f"wrote {output}/: manifest.json, report.html, graph/, passes/")


def _remove_empty(made: Path | None) -> None:
    """Take back the folders that were made for a run that failed."""
    import shutil

    if made is not None:
        shutil.rmtree(made, ignore_errors=True)
