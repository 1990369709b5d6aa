"""Emitting and measuring files: each is written, proved in its own runtime, scored and timed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from compressc.backend import Backend, emit_proved, is_quantized, load_backend
from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.ir import Graph, random_inputs
from compressc.measure import Runner, accuracy, agreement, bytes_on_disk, measure_latency, predict
from compressc.report.record import Failure, FileRecord, LatencyRecord
from compressc.report.run_record import first_tensor, logits_of

#: Latency is measured at one thread: on more, other work on the machine decides the ratio.
THREADS = 1
#: Seconds that one (runtime, batch) pair may take, and the rounds it needs at least.
_BUDGET_S, _LEAST_ROUNDS, _MOST_ROUNDS = 4.0, 7, 31
#: Samples that a file is proved on, where there is no data.
_RANDOM_SAMPLES = 8

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Bench:
    """What every format is measured with.

    Attributes:
        graph: the compressed graph.
        teacher: what it is held against.
        data: its test part is the measure; random inputs where there is none.
        batches: batch sizes to measure latency at.
    """

    graph: Graph
    teacher: Graph
    data: Dataset | None
    batches: Sequence[int]

    @cached_property
    def test(self) -> Split:
        """The samples that files are proved and scored on."""
        if self.data is not None:
            return self.data.test
        return Split(random_inputs(self.graph, batch=_RANDOM_SAMPLES))

    @cached_property
    def teacher_logits(self) -> torch.Tensor:
        """The teacher's answers, f32[n, ..., classes]."""
        return predict(logits_of(self.teacher), self.test)


def record_files(
    bench: Bench, folder: Path, formats: Sequence[str], progress: Progress
) -> tuple[list[FileRecord], list[Failure]]:
    """Write the model in every format into `folder`, and measure each.

    Returns:
        A record for each file, and a failure for each format that could not be written.

    Raises:
        CompresscError: CC107 for an unknown format, CC503 where not one could be written.
    """
    backends = [load_backend(name) for name in formats]
    files, failures = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for done, backend in enumerate(backends):
            progress(f"writing and measuring {backend.name}", done, len(backends))
            try:
                files.append(_record_file(backend, bench, folder, Path(scratch)))
            except CompresscError as error:
                message = f"{error.wanted} (got {error.got})" if error.got else error.wanted
                failures.append(
                    Failure(stage=f"backend {backend.name}", code=error.code, message=message)
                )
    progress("writing files", len(backends), len(backends))
    if failures and not files:
        raise CompresscError("CC503", "at least one file must come out", got=failures[0].message)
    return files, failures


def _record_file(backend: Backend, bench: Bench, folder: Path, scratch: Path) -> FileRecord:
    test = bench.test
    path, proof = emit_proved(backend, bench.graph, folder, test)
    run = backend.load(path, threads=THREADS)
    logits = predict(_logits(run), test)
    teacher_path = _emit_teacher(backend, bench.teacher, scratch, test)
    latency = []
    if teacher_path is not None and bench.batches:
        teacher_run = backend.load(teacher_path, threads=THREADS)
        latency = list(_latencies(backend, bench, teacher_run, run))
    labelled = test.labels is not None
    return FileRecord(
        format=backend.name,
        path=str(path.relative_to(folder)),
        bytes=_bytes(backend, path),
        teacher_bytes=None if teacher_path is None else _bytes(backend, teacher_path),
        proof=proof,
        accuracy=accuracy(logits, test.labels) if labelled else None,  # type: ignore[arg-type]
        agreement=agreement(logits, bench.teacher_logits),
        latency=latency,
    )


def _emit_teacher(backend: Backend, teacher: Graph, scratch: Path, test: Split) -> Path | None:
    """The teacher in the same format, to compare with; it is not kept."""
    try:
        return backend.emit(teacher, scratch / backend.name, test.take(8).inputs)
    except CompresscError:
        return None  # the comparison is left out of the report: its bytes read None


def _bytes(backend: Backend, path: Path) -> int:
    return sum(bytes_on_disk(file) for file in backend.files(path))


def _logits(run: Callable[..., object]) -> Runner:
    return lambda *inputs: first_tensor(run(*inputs))


def _latencies(
    backend: Backend, bench: Bench, teacher: Callable[..., object], result: Callable[..., object]
) -> Iterator[LatencyRecord]:
    precision = "int8" if is_quantized(bench.graph) else "f32"
    for batch in bench.batches:
        inputs = tuple(_repeated(x, batch) for x in bench.test.inputs)
        runs = {"teacher": lambda x=inputs: teacher(*x), "result": lambda x=inputs: result(*x)}
        with _torch_threads(THREADS):
            spreads = measure_latency(runs, rounds=_rounds(runs))
        yield LatencyRecord.of(
            spreads["teacher"],
            spreads["result"],
            runtime=backend.runtime,
            batch=batch,
            threads=THREADS,
            precision=precision,
        )


def _repeated(array: torch.Tensor, batch: int) -> torch.Tensor:
    copies = -(-batch // len(array))
    return array.repeat(copies, *[1] * (array.dim() - 1))[:batch].contiguous()


def _rounds(runs: Mapping[str, Callable[[], object]]) -> int:
    """As many rounds as the time allows, after one that warms up."""
    for run in runs.values():
        run()
    start = time.perf_counter()
    for run in runs.values():
        run()
    seconds = max(time.perf_counter() - start, 0.004)  # a sample lasts 2 ms at least
    return max(_LEAST_ROUNDS, min(_MOST_ROUNDS, int(_BUDGET_S / seconds)))


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
