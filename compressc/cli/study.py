"""`compressc study fidelity|temperature|bias|order model.pt --data d`: many runs side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compressc.cli.model_options import DataOption, ModelArgument, SessionOptions
from compressc.cli.progress import progress_bar
from compressc.cli.spreading import spread
from compressc.cli.training_options import TrainingOptions
from compressc.errors import CompresscError

if TYPE_CHECKING:
    from compressc.report.study_record import StudyRecord
    from compressc.study import Study

study = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Put many runs side by side: what a choice is worth for your model and data.",
)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The runs that a study makes, and where it writes."""

    data: DataOption = None
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Runs of each, with seeds from 0.")] = 3
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for study.json and study.html.")
    ] = Path("study")


@study.command()
@spread
def fidelity(
    model: ModelArgument,
    *,
    passes: Annotated[
        list[str] | None,
        typer.Option("--passes", "-p", help="Passes with a training; again for another list."),
    ] = None,
    runs: RunOptions,
    given: SessionOptions,
    training: TrainingOptions,
) -> None:
    """Follow agreement with the teacher, and the score, over the epochs of trainings."""
    from compressc.study import fidelity as measure

    _study(model, runs, given, training, lambda opened: measure(opened, passes or ["distill"]))


@study.command()
@spread
def temperature(  # noqa: PLR0913  (each is an option of the command line)
    model: ModelArgument,
    *,
    passes: Annotated[
        str, typer.Option("--passes", "-p", help="With {T} where the temperature goes.")
    ] = "distill(temperature={T})",
    at: Annotated[str, typer.Option(help="Temperatures to try.")] = "1,2,4,8",
    runs: RunOptions,
    given: SessionOptions,
    training: TrainingOptions,
) -> None:
    """Train at each of several temperatures."""
    from compressc.study import temperature as measure

    values = _numbers(at)
    _study(model, runs, given, training, lambda opened: measure(opened, passes, values))


@study.command()
@spread
def bias(  # noqa: PLR0913  (each is an option of the command line)
    model: ModelArgument,
    *,
    passes: Annotated[
        str, typer.Option("--passes", "-p", help="prune(ratio=0.5),distill,quant")
    ] = "",
    slices: Annotated[
        Path | None,
        typer.Option(help="An .npz of arrays [n] over the test part: bools, or groups."),
    ] = None,
    runs: RunOptions,
    given: SessionOptions,
    training: TrainingOptions,
) -> None:
    """See which classes and slices pay for a compression, and name what is amplified."""
    from compressc.study import bias as measure
    from compressc.study.slices import read_slices

    def of(opened: Study) -> StudyRecord:
        parts = {} if slices is None else read_slices(slices, len(opened.data.test))
        return measure(opened, passes, parts)

    _study(model, runs, given, training, of)


@study.command()
@spread
def order(  # noqa: PLR0913  (each is an option of the command line)
    model: ModelArgument,
    *,
    passes: Annotated[str, typer.Option("--passes", "-p", help="2 to 6 of them.")] = "",
    budget: Annotated[
        str, typer.Option(help="Time after which no further order is begun: 90s, 10min, 1.5h.")
    ] = "",
    runs: RunOptions,
    given: SessionOptions,
    training: TrainingOptions,
) -> None:
    """Measure the orders that passes can have, those that they speak against, too."""
    from compressc.study import order as measure

    seconds = _seconds(budget)
    _study(model, runs, given, training, lambda opened: measure(opened, passes, seconds))


def _study(
    model: str,
    runs: RunOptions,
    given: SessionOptions,
    training: TrainingOptions,
    measure: Callable[[Study], StudyRecord],
) -> None:
    """Open what the options name, measure, write, and say what follows."""
    from compressc.report.staging import make_writable
    from compressc.report.study_html import write_study
    from compressc.study import open_study

    output = runs.output
    make_writable(output)
    with progress_bar() as tell:
        opened = open_study(
            model,
            data=runs.data,
            seeds=runs.seeds,
            tell=tell,
            **given.keywords(),
            **training.keywords(),
        )
        record = measure(opened)
    record.write(output / "study.json")
    write_study(record, output / "study.html")
    for text in record.findings:
        typer.echo(f"- {text}")
    typer.echo(f"wrote {output}/: study.json, study.html")


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        wanted = "--at is numbers with commas between them"
        raise CompresscError("CC100", wanted, got=text, hint="--at 1,2,4,8") from None


def _seconds(text: str) -> float | None:
    from compressc.training import parse_budget

    if not text:
        return None
    try:
        return parse_budget(text)
    except ValueError as error:
        raise CompresscError("CC100", "--budget is a time", got=text, hint=str(error)) from error
