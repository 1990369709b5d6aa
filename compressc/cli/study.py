"""`compressc study fidelity|temperature|bias|order model.pt --data d`: many runs side by side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compressc.cli.model_options import (
    AugmentOption,
    DataOption,
    DtypeOption,
    FactoryOption,
    IgnoreExtraOption,
    InputsOption,
    ModelArgument,
    StateKeyOption,
    TrustPickleOption,
    WorkersOption,
)
from compressc.cli.progress import progress_bar
from compressc.errors import CompresscError

if TYPE_CHECKING:
    from compressc.report.study_record import StudyRecord
    from compressc.study import Study

study = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Put many runs side by side: what a choice is worth for your model and data.",
)

OutputOption = Annotated[
    Path, typer.Option("--output", "-o", help="Folder for study.json and study.html.")
]
SeedsOption = Annotated[int, typer.Option(min=1, max=100, help="Runs of each, with seeds from 0.")]
DeviceOption = Annotated[str, typer.Option(help="Where passes train: cpu, cuda.")]
TaskOption = Annotated[str | None, typer.Option(help="What the model is for; else inferred.")]
JudgedOption = Annotated[str | None, typer.Option(help="Output that is judged, of several.")]
CacheOption = Annotated[bool, typer.Option("--no-cache", help="Keep no results of passes.")]
EveryOption = Annotated[
    float, typer.Option(min=0.0, help="Seconds of a training that a crash may cost.")
]


@study.command()
def fidelity(  # noqa: PLR0913  (each is an option of the command line)
    model: ModelArgument,
    passes: Annotated[
        list[str] | None,
        typer.Option("--passes", "-p", help="Passes with a training; again for another list."),
    ] = None,
    data: DataOption = None,
    seeds: SeedsOption = 3,
    output: OutputOption = Path("study"),
    workers: WorkersOption = 0,
    augment: AugmentOption = "",
    inputs: InputsOption = None,
    trust_pickle: TrustPickleOption = False,
    factory: FactoryOption = None,
    state_key: StateKeyOption = None,
    ignore_extra: IgnoreExtraOption = False,
    dtype: DtypeOption = "float32",
    task: TaskOption = None,
    judged: JudgedOption = None,
    device: DeviceOption = "cpu",
    no_cache: CacheOption = False,
    checkpoint_every: EveryOption = 60.0,
) -> None:
    """Follow agreement with the teacher, and the score, over the epochs of trainings."""
    from compressc.study import fidelity as measure

    given = {key: value for key, value in locals().items() if key != "measure"}
    _study(given, lambda opened: measure(opened, passes or ["distill"]))


@study.command()
def temperature(  # noqa: PLR0913  (each is an option of the command line)
    model: ModelArgument,
    passes: Annotated[
        str, typer.Option("--passes", "-p", help="With {T} where the temperature goes.")
    ] = "distill(temperature={T})",
    at: Annotated[str, typer.Option(help="Temperatures to try.")] = "1,2,4,8",
    data: DataOption = None,
    seeds: SeedsOption = 3,
    output: OutputOption = Path("study"),
    workers: WorkersOption = 0,
    augment: AugmentOption = "",
    inputs: InputsOption = None,
    trust_pickle: TrustPickleOption = False,
    factory: FactoryOption = None,
    state_key: StateKeyOption = None,
    ignore_extra: IgnoreExtraOption = False,
    dtype: DtypeOption = "float32",
    task: TaskOption = None,
    judged: JudgedOption = None,
    device: DeviceOption = "cpu",
    no_cache: CacheOption = False,
    checkpoint_every: EveryOption = 60.0,
) -> None:
    """Train at each of several temperatures."""
    from compressc.study import temperature as measure

    given = {key: value for key, value in locals().items() if key != "measure"}
    values = _numbers(at)
    _study(given, lambda opened: measure(opened, passes, values))


@study.command()
def bias(  # noqa: PLR0913  (each is an option of the command line)
    model: ModelArgument,
    passes: Annotated[
        str, typer.Option("--passes", "-p", help="prune(ratio=0.5),distill,quant")
    ] = "",
    slices: Annotated[
        Path | None,
        typer.Option(help="An .npz of arrays [n] over the test part: bools, or groups."),
    ] = None,
    data: DataOption = None,
    seeds: SeedsOption = 3,
    output: OutputOption = Path("study"),
    workers: WorkersOption = 0,
    augment: AugmentOption = "",
    inputs: InputsOption = None,
    trust_pickle: TrustPickleOption = False,
    factory: FactoryOption = None,
    state_key: StateKeyOption = None,
    ignore_extra: IgnoreExtraOption = False,
    dtype: DtypeOption = "float32",
    task: TaskOption = None,
    judged: JudgedOption = None,
    device: DeviceOption = "cpu",
    no_cache: CacheOption = False,
    checkpoint_every: EveryOption = 60.0,
) -> None:
    """See which classes and slices pay for a compression, and name what is amplified."""
    from compressc.study import bias as measure
    from compressc.study.slices import read_slices

    given = {key: value for key, value in locals().items() if key not in ("measure", "read_slices")}

    def of(opened: Study) -> StudyRecord:
        parts = {} if slices is None else read_slices(slices, len(opened.data.test))
        return measure(opened, passes, parts)

    _study(given, of)


@study.command()
def order(  # noqa: PLR0913  (each is an option of the command line)
    model: ModelArgument,
    passes: Annotated[str, typer.Option("--passes", "-p", help="2 to 6 of them.")] = "",
    budget: Annotated[
        str, typer.Option(help="Time after which no further order is begun: 90s, 10min, 1.5h.")
    ] = "",
    data: DataOption = None,
    seeds: SeedsOption = 3,
    output: OutputOption = Path("study"),
    workers: WorkersOption = 0,
    augment: AugmentOption = "",
    inputs: InputsOption = None,
    trust_pickle: TrustPickleOption = False,
    factory: FactoryOption = None,
    state_key: StateKeyOption = None,
    ignore_extra: IgnoreExtraOption = False,
    dtype: DtypeOption = "float32",
    task: TaskOption = None,
    judged: JudgedOption = None,
    device: DeviceOption = "cpu",
    no_cache: CacheOption = False,
    checkpoint_every: EveryOption = 60.0,
) -> None:
    """Measure the orders that passes can have, those that they speak against, too."""
    from compressc.study import order as measure

    given = {key: value for key, value in locals().items() if key != "measure"}
    seconds = _seconds(budget)
    _study(given, lambda opened: measure(opened, passes, seconds))


#: Options that are of one study alone, or of the record.
_OWN = ("passes", "at", "slices", "budget", "output", "no_cache")


def _study(given: dict[str, Any], measure: Callable[[Study], StudyRecord]) -> None:
    """Open what the options name, measure, write, and say what follows."""
    from compressc.report.staging import make_writable
    from compressc.report.study_html import write_study
    from compressc.study import open_study

    output: Path = given["output"]
    make_writable(output)
    options = {name: value for name, value in given.items() if name not in _OWN}
    options["inputs"] = options["inputs"] or ()
    with progress_bar() as tell:
        cache = None if given["no_cache"] else "default"
        record = measure(open_study(options.pop("model"), cache=cache, tell=tell, **options))
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
