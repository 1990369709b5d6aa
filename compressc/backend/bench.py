"""One function measures: `bench` writes each file, proves it, scores it and times it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from compressc.analysis import find_early_exits
from compressc.analysis.integers import VNNI, full_range_layers, rounds_values
from compressc.backend.backend import Backend, Runner, load_backend
from compressc.backend.fed import Fed
from compressc.backend.file_record import (
    Failure,
    FileRecord,
    Gains,
    Int8Layers,
    LatencyRecord,
)
from compressc.backend.gaining import Gaining
from compressc.backend.proof import emit_proved
from compressc.backend.threads import torch_threads
from compressc.collecting import give_back
from compressc.errors import CompresscError, first_line
from compressc.events import Event, Listener, ignore
from compressc.frontend import Origin
from compressc.ir import Graph
from compressc.measure import Judge, Spread, bytes_on_disk, measure_latency
from compressc.pipeline import Samples
from compressc.target import Target
from compressc.tasks import Scoring, SettledTask

#: Samples of each latency; fewer where one takes long.
_ROUNDS = 31
#: Batches that are timed together where a sample may leave early: some do and some do not.
_LOTS = 32
#: Samples of the example that an exporter traces with.
_EXAMPLE = 8


@dataclass(frozen=True)
class TeacherFile:
    """The teacher in one format: what a result in that format is held against."""

    bytes: int
    path: Path


@dataclass
class Teacher(AbstractContextManager["Teacher"]):
    """What results are held against: run and emitted once, for any number of results.

    Use it in a `with` statement: its files lie in a temporary folder.

    Attributes:
        graph: the uncompressed model.
        samples: inputs and, where there are any, labels that no pass has seen.
        target: threads that a runtime may use.
        judge: of the samples; None where nothing can be judged, on random inputs.
        origin: the module behind the graph, where there was one.
        narrow: files take what their graphs read alone: student and teacher see other views.
    """

    graph: Graph
    samples: Samples
    target: Target
    judge: Judge | None = None
    origin: Origin | None = None
    narrow: bool = False
    _files: dict[str, TeacherFile | Failure] = field(default_factory=dict, repr=False)

    def __enter__(self) -> Teacher:
        self._scratch = tempfile.TemporaryDirectory()
        return self

    def __exit__(self, *raised: object) -> None:
        self._files.clear()
        self._scratch.cleanup()

    def scoring(self, run: Runner) -> Scoring | None:
        """Every score of a file, computed by the file in its own runtime; None without a task."""
        return None if self.judge is None else self.judge.of(run)

    @property
    def task(self) -> SettledTask | None:
        """What is judged."""
        return None if self.judge is None else self.judge.settled

    def file(self, backend: Backend) -> TeacherFile | Failure:
        """The teacher in that format, or why there is none to compare with."""
        if backend.name not in self._files:
            try:
                self._files[backend.name] = self._emit(backend)
            except CompresscError as error:
                self._files[backend.name] = _failure(f"teacher as {backend.name}", error)
        return self._files[backend.name]

    def fed(self, graph: Graph) -> Fed:
        """What the file of a graph takes."""
        return Fed.of(graph, narrow=self.narrow)

    def _emit(self, backend: Backend) -> TeacherFile:
        folder = Path(self._scratch.name) / backend.name
        fed = self.fed(self.graph)
        path = backend.emit(fed.graph, folder, fed.samples(self.samples).take(_EXAMPLE).inputs)
        give_back()
        return TeacherFile(_bytes(backend, path), path)


def bench(
    graph: Graph,
    target: Target,
    teacher: Teacher,
    folder: Path,
    tell: Listener = ignore,
) -> tuple[list[FileRecord], list[Failure]]:
    """Write a graph in every format of the target into `folder`, and measure each file.

    Args:
        graph: what to write.
        target: formats, batches, threads.
        teacher: what the files are held against, and the samples that they are measured on.
        folder: made where missing.
        tell: told which format is at work, of each file and each failure.

    Returns:
        A record for each file, and a failure for each thing of the target that did not come about:
        a format, a teacher to compare with, a latency.

    Raises:
        CompresscError: CC107 for an unknown format, CC503 where not one could be written.
    """
    backends = [load_backend(name).of(teacher.graph, teacher.origin) for name in target.backends]
    files: list[FileRecord] = []
    failures: list[Failure] = []
    for done, backend in enumerate(backends):
        what, told = f"writing and measuring {backend.name}", len(failures)
        tell(Event("progress", {"what": what, "done": done, "total": len(backends)}))
        try:
            files.append(_measure(backend, graph, target, teacher, folder, failures))
            facts = files[-1].model_dump(mode="json", include={"format", "path", "bytes", "scores"})
            tell(Event("file", facts))
        except CompresscError as error:
            failures.append(_failure(f"backend {backend.name}", error))
        for failure in failures[told:]:
            tell(Event("failure", failure.model_dump(mode="json")))
        give_back()
    if failures and not files:
        raise CompresscError("CC503", "at least one file must come out", got=failures[0].message)
    return files, failures


def _measure(  # noqa: PLR0913  (one format, and where its failures go)
    backend: Backend,
    graph: Graph,
    target: Target,
    teacher: Teacher,
    folder: Path,
    failures: list[Failure],
) -> FileRecord:
    samples, gains, rounds = teacher.samples, None, rounds_values(graph)
    fed = teacher.fed(graph)
    graph, given = fed.graph, fed.samples(samples)
    if rounds and target.int8 == "gains":
        graph, gains = _gaining(backend, target, given).of(graph)
        give_back()
    path, proof = emit_proved(backend, graph, folder, given, teacher.task)
    rival = teacher.file(backend)
    run = fed.runner(backend.load(path, threads=target.threads))
    latency: list[LatencyRecord] = []
    if isinstance(rival, Failure):
        failures.append(rival)
    else:
        precision = "int8" if rounds_values(graph) else "f32"
        runners = _runners(backend, rival, run, teacher, target, failures)
        for batch in target.batches if runners else ():
            try:
                lots = _LOTS if find_early_exits(graph) else 1
                latency.append(_latency(backend, target, samples, runners, batch, precision, lots))
            except Exception as error:  # each runtime has exception types of its own
                failures.append(_failure(f"latency of {backend.name} at batch {batch}", error))
        del runners
    scoring = teacher.scoring(run)
    return FileRecord(
        format=backend.name,
        path=str(path.relative_to(folder)),
        bytes=_bytes(backend, path),
        teacher_bytes=None if isinstance(rival, Failure) else rival.bytes,
        int8_layers=_int8_layers(backend, path, graph, gains) if rounds else None,
        gains=gains,
        needs=VNNI if backend.overflows and full_range_layers(graph) else "",
        proof=proof,
        scores={} if scoring is None else scoring.values(),
        recalls=[] if scoring is None else scoring.recalls,
        latency=latency,
    )


def _gaining(backend: Backend, target: Target, samples: Samples) -> Gaining:
    """At the batch sizes that count."""
    inputs = tuple(
        tuple(repeated(x, batch) for x in samples.take(batch).inputs) for batch in target.batches
    )
    return Gaining(backend, samples.take(_EXAMPLE).inputs, inputs, target.threads)


def _int8_layers(
    backend: Backend, path: Path, graph: Graph, gains: Gains | None
) -> Int8Layers | None:
    """With the measured reason of what is in floats for the sake of time."""
    found = backend.int8_layers(path, graph)
    regions = [] if gains is None else [region for region in gains.regions if region.floats]
    reasons = {layer: region.reason for region in regions for layer in region.layers}
    if found is None or not reasons:
        return found
    left = [
        layer.model_copy(update={"reason": reasons.get(layer.op, layer.reason)})
        for layer in found.left
    ]
    return found.model_copy(update={"left": left})


def _runners(  # noqa: PLR0913  (two files, and where failures go)
    backend: Backend,
    rival: TeacherFile,
    run: Runner,
    teacher: Teacher,
    target: Target,
    failures: list[Failure],
) -> dict[str, Runner]:
    """What is timed; the teacher is loaded for its turn alone: all would fill the memory."""
    if not target.batches:
        return {}
    try:
        theirs = teacher.fed(teacher.graph).runner(backend.load(rival.path, threads=target.threads))
        return {"teacher": theirs, "result": run}
    except CompresscError as error:
        failures.append(_failure(f"teacher as {backend.name}", error))
        return {}


def _failure(stage: str, error: Exception) -> Failure:
    if not isinstance(error, CompresscError):
        return Failure(stage=stage, code="CC601", message=first_line(error))
    message = f"{error.wanted} (got {error.got})" if error.got else error.wanted
    message = f"{message}; {error.hint}" if error.hint else message
    return Failure(stage=stage, code=error.code, message=message)


def _bytes(backend: Backend, path: Path) -> int:
    return sum(bytes_on_disk(file) for file in backend.files(path))


def _latency(  # noqa: PLR0913  (two runners and what the record says of them)
    backend: Backend,
    target: Target,
    samples: Samples,
    runners: Mapping[str, Runner],
    batch: int,
    precision: str,
    lots: int,
) -> LatencyRecord:
    """At a batch size; the mean over so many batches, where samples do not all take the same."""
    lots = max(1, min(lots, len(samples) // batch))
    inputs = [repeated(x, batch * lots).chunk(lots) for x in samples.take(batch * lots).inputs]
    every = list(zip(*inputs, strict=True))
    runs = {name: partial(_run_all, run, every) for name, run in runners.items()}
    with torch_threads(target.threads):
        spreads = measure_latency(runs, rounds=_ROUNDS, threads=target.threads)
    if lots > 1:
        spreads = {
            name: Spread.of([ms / lots for ms in spread.samples], spread.disturbed)
            for name, spread in spreads.items()
        }
    return LatencyRecord.of(
        spreads["teacher"],
        spreads["result"],
        runtime=backend.runtime,
        batch=batch,
        threads=target.threads,
        precision=precision,
    )


def _run_all(run: Runner, batches: Sequence[tuple[torch.Tensor, ...]]) -> None:
    for inputs in batches:
        run(*inputs)


def repeated(array: torch.Tensor, batch: int) -> torch.Tensor:
    """That many samples `[batch, ...]`: those there are, again and again where they are too few."""
    copies = -(-batch // len(array))
    return array.repeat(copies, *[1] * (array.dim() - 1))[:batch].contiguous()
