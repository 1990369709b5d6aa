"""What is measured of a file is the file's: with a back end whose every figure is known."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import nn

import compressc
from compressc.backend import Backend, FileRecord, Runner
from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.ir import Graph, lower
from compressc.measure import measure_latency
from compressc.pipeline import Context, Pass
from compressc.report import Record
from compressc.target import Target

SAMPLES = 64


class Clock:
    """Moves only when a file runs."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> tuple[int, int]:
        return self.now, self.now


CLOCK = Clock()


class Flipping(Backend):
    """Its file gives the other class for flagged samples, by less than rounding.

    A sample takes 5 ms in the teacher's file and 2 ms in the result's.
    """

    name: ClassVar[str] = "flipping"
    runtime: ClassVar[str] = "a fake"
    suffix: ClassVar[str] = "model.fake"
    graphs: ClassVar[dict[int, Graph]] = {}
    teacher_ms: ClassVar[float] = 5.0

    def emit(self, graph: Graph, folder: Path, example: tuple[torch.Tensor, ...]) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        key = len(self.graphs)
        self.graphs[key] = graph
        is_result = bool(lower(graph)(torch.tensor([[1.0, 2.0, 0.0]])).argmax() == 0)
        path = folder / self.suffix
        path.write_bytes(str(key).encode().ljust(100 if is_result else 400))
        return path

    def load(self, path: Path, threads: int = 1) -> Runner:
        content = path.read_bytes()
        module = lower(self.graphs[int(content)])
        milliseconds = 2.0 if len(content) == 100 else self.teacher_ms

        def run(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            CLOCK.now += round(milliseconds * 1e6 * len(x))
            out = module(x).detach()
            return (torch.where(x[:, 2:] > 0, out.flip(1), out),)

        return run


class Swap(Pass):
    """The two classes change places: every answer is the other one."""

    name: ClassVar[str] = "swap"

    def run(self, graph: Graph, ctx: Context) -> None:
        op = next(op for op in graph if op.kind == "linear")
        layer = nn.Linear(3, 2, bias=False)
        layer.weight.data = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
        graph.set_layer(op.name, layer)


def teacher() -> nn.Module:
    layer = nn.Linear(3, 2, bias=False)
    layer.weight.data = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    return nn.Sequential(layer).eval()


def data() -> Dataset:
    """Features that differ by 2e-6; the first 16 samples are flagged, the last 8 mislabelled."""
    torch.manual_seed(0)
    classes = torch.arange(SAMPLES) % 2
    flags = torch.zeros(SAMPLES)
    flags[:16] = 1
    first, second = 1 + 2e-6 * (classes == 0), 1 + 2e-6 * (classes == 1)
    x = torch.stack([first.float(), second.float(), flags], 1)
    labels = classes.clone()
    labels[-8:] = 1 - labels[-8:]
    part = Split((x,), labels)
    return Dataset("flags", part, part, part)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Record]:
    """Compile with that back end and a clock of its own."""
    bench = import_module("compressc.backend.bench")  # the package has a function of that name
    for module in (bench, compressc.backend):
        monkeypatch.setattr(module, "load_backend", lambda name: Flipping())
    monkeypatch.setattr(bench, "measure_latency", partial(measure_latency, clock=CLOCK))

    def run(folder: Path, **target: object) -> Record:
        wanted = Target(backends=("flipping",), **target)  # type: ignore[arg-type]
        compiled = compressc.compile(teacher(), [Swap()], data=data(), target=wanted, cache=None)
        return compiled.save(folder / "out")

    return run


@pytest.fixture
def file(fake: Callable[..., Record], tmp_path: Path) -> FileRecord:
    return fake(tmp_path, batches=(1, 8)).files[0]


def test_scores_are_of_the_file(file: FileRecord) -> None:
    """The graph is wrong on 56 of 64; its file flips 16 of these back, and 8 labels are wrong."""
    assert file.accuracy == (16 + 8) / 64  # of the graph: 8 / 64
    assert file.agreement == 16 / 64  # with itself: 1, with the graph: 48 / 64
    assert file.proof is not None
    assert file.proof.max_abs_error == pytest.approx(2e-6, rel=0.1)


def test_sizes_are_whose_they_are(file: FileRecord) -> None:
    assert (file.teacher_bytes, file.bytes) == (400, 100)


def test_latencies_are_whose_they_are_at_each_batch(file: FileRecord) -> None:
    found = [(e.batch, e.teacher.median_ms, e.result.median_ms) for e in file.latency]
    assert found == [(1, 5.0, 2.0), (8, 40.0, 16.0)]
    assert [(e.speedup, e.verdict) for e in file.latency] == [(2.5, "faster")] * 2
    assert {e.runtime for e in file.latency} == {"a fake"}


def test_a_larger_batch_than_there_are_samples_repeats_them(
    fake: Callable[..., Record], tmp_path: Path
) -> None:
    (entry,) = fake(tmp_path, batches=(3 * SAMPLES,)).files[0].latency
    assert entry.result.median_ms == 3 * SAMPLES * 2


def test_where_samples_may_leave_early_several_batches_are_timed(
    fake: Callable[..., Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of eight batches of 8 samples; the mean is that of one."""
    bench, lots = import_module("compressc.backend.bench"), []
    monkeypatch.setattr(bench, "find_early_exits", lambda graph: [graph])
    run_all = bench._run_all
    monkeypatch.setattr(bench, "_run_all", lambda run, b: lots.append(b) or run_all(run, b))
    (entry,) = fake(tmp_path, batches=(8,)).files[0].latency
    assert entry.result.median_ms == pytest.approx(8 * 2)
    assert entry.speedup == pytest.approx(2.5)
    assert torch.equal(torch.cat([x for (x,) in lots[-1]]), data().test.inputs[0])  # type: ignore


def test_a_result_like_the_teacher_claims_nothing(
    fake: Callable[..., Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Flipping, "teacher_ms", 2.0)
    (entry,) = fake(tmp_path, batches=(1,)).files[0].latency
    assert (entry.speedup, entry.verdict) == (1.0, "same")


def test_threads_reach_the_runtime_and_the_record(
    fake: Callable[..., Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    load = Flipping.load

    def spy(self: Flipping, path: Path, threads: int = 1) -> Runner:
        asked.append(threads)
        return load(self, path, threads)

    monkeypatch.setattr(Flipping, "load", spy)
    (entry,) = fake(tmp_path, batches=(1,), threads=3).files[0].latency
    assert entry.threads == 3
    assert asked.count(3) == 2  # the timed runners of teacher and result; the proof has its own


def test_what_cannot_be_measured_is_a_failure_and_the_rest_stays(
    fake: Callable[..., Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Flipping.load

    def small(self: Flipping, path: Path, threads: int = 1) -> Runner:
        run = load(self, path, threads)

        def limited(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            if len(x) > SAMPLES:
                raise RuntimeError("out of memory\nand more")
            return run(x)

        return limited

    monkeypatch.setattr(Flipping, "load", small)
    record = fake(tmp_path, batches=(1, 1000))
    assert [entry.batch for entry in record.files[0].latency] == [1]
    (failure,) = record.failures
    assert failure.stage == "latency of flipping at batch 1000"
    assert failure.message == "RuntimeError: out of memory"


def test_a_teacher_that_cannot_be_written_is_a_failure(
    fake: Callable[..., Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emit = Flipping.emit

    def picky(
        self: Flipping, graph: Graph, folder: Path, example: tuple[torch.Tensor, ...]
    ) -> Path:
        path = emit(self, graph, folder, example)
        if path.stat().st_size == 400:
            raise CompresscError("CC503", "too large")
        return path

    monkeypatch.setattr(Flipping, "emit", picky)
    record = fake(tmp_path)
    assert record.files[0].teacher_bytes is None
    assert record.files[0].latency == []
    assert [(f.stage, f.message) for f in record.failures] == [("teacher as flipping", "too large")]


def test_an_unknown_format_is_refused_before_any_work() -> None:
    class Never(Swap):
        def run(self, graph: Graph, ctx: Context) -> None:
            raise AssertionError("a pass ran")

    with pytest.raises(CompresscError, match="CC107"):
        compressc.compile(teacher(), [Never()], data=data(), target=Target(backends=("onx",)))
