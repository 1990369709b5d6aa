"""From a run to its `Record`: scores and cost of the teacher and of the graph after each pass."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING

from torch import Tensor

from compressc.analysis import total_cost
from compressc.ir import Graph, dimension_symbols, graph_hash, lower
from compressc.measure import labels_of, predict
from compressc.report.machine import describe_machine, library_versions
from compressc.report.record import DataRecord, Note, PassRecord, Record, TaskRecord, TeacherRecord
from compressc.tasks import SettledTask, constant_scores, metrics, score

if TYPE_CHECKING:
    from compressc.data import Dataset
    from compressc.frontend import Loaded
    from compressc.pipeline import PassResult, Samples

#: What open dimensions are taken to be where no data tell: as `compressc inspect` takes them.
_OPEN = 128


def record_run(  # noqa: PLR0913  (what a run is made of)
    loaded: Loaded,
    data: Dataset | None,
    task: SettledTask | None,
    results: Sequence[PassResult],
    seed: int,
    command: str,
) -> Record:
    """The record of a run, without files; measured on the test part, which no pass has seen."""
    started = time.perf_counter()
    judge = None if data is None or task is None else _Judge(loaded.graph, data.test, task)
    sizes = _sizes(loaded.graph, None if data is None else data.test)
    cost = total_cost(loaded.graph, **sizes)
    teacher = TeacherRecord(
        source=loaded.source,
        ops=len(loaded.graph),
        parameters=cost.parameters,
        macs=cost.macs,
        scores={} if judge is None else judge.of_teacher(),
        sha256=graph_hash(loaded.graph),
        notes=[Note(op="", text=text) for text in loaded.notes],
    )
    passes = [_record_pass(result, judge, sizes) for result in results]
    return Record(
        compressc_version=version("compressc"),
        command=command,
        seed=seed,
        versions=library_versions(),
        machine=describe_machine(),
        teacher=teacher,
        sizes={name: size for name, size in sizes.items() if size != 1},
        task=None if judge is None else judge.record(),
        data=None if data is None else _record_data(data),
        passes=passes,
        wall_seconds=time.perf_counter() - started,
    )


@dataclass
class _Judge:
    """Scores graphs on samples that no pass has seen."""

    teacher: Graph
    test: Samples
    task: SettledTask

    @cached_property
    def answers(self) -> Tensor:
        """The judged output of the teacher, `[n, ...]`."""
        return predict(self.task.judging(lower(self.teacher)), self.test)

    @cached_property
    def labels(self) -> Tensor | None:
        """Of the samples, `[n, ...]`."""
        return labels_of(self.test)

    def of_teacher(self) -> dict[str, float]:
        """Against labels alone: it always agrees with itself."""
        found = score(self.task, self.answers, self.labels, self.answers)
        against = {metric.name: metric.against for metric in metrics(self.task)}
        return {name: value for name, value in found.items() if against[name] == "labels"}

    def of(self, graph: Graph) -> dict[str, float]:
        output = predict(self.task.judging(lower(graph)), self.test)
        return score(self.task, output, self.labels, self.answers)

    def record(self) -> TaskRecord:
        constant = constant_scores(self.task, self.labels, self.answers)
        return TaskRecord(
            output=self.task.output,
            kind=self.task.kind,
            labels=self.task.labels,
            reason=self.task.reason,
            warnings=list(self.task.warnings),
            metrics=[metric for metric in metrics(self.task) if metric.name in constant],
            constant=constant,
        )


def _sizes(graph: Graph, test: Samples | None) -> dict[str, int]:
    """The open dimensions of one sample: as the data have them, else a short text's."""
    sizes = {}
    for name, (op, dim) in dimension_symbols(graph).items():
        if dim == 0:
            sizes[name] = 1
        elif test is None:
            sizes[name] = graph.within_limits(name, _OPEN)
        else:
            place = [given.name for given in graph.inputs].index(op)
            sizes[name] = int(test.take(1).inputs[place].shape[dim])
    return sizes


def _record_pass(result: PassResult, judge: _Judge | None, sizes: dict[str, int]) -> PassRecord:
    pass_ = result.step.pass_
    cost = total_cost(result.graph, **sizes)
    return PassRecord(
        name=pass_.name,
        text=pass_.text,
        options=pass_.model_dump(mode="json", by_alias=True),
        version=str(pass_.version),
        effect=pass_.effect,
        edits=result.edits,
        seconds=result.seconds,
        cached=result.cached,
        made=result.made,
        ops=len(result.graph),
        parameters=cost.parameters,
        macs=cost.macs,
        scores={} if judge is None else judge.of(result.graph),
        notes=[Note(op=op, text=text) for op, text in result.notes],
        inserted_for=result.step.inserted_for,
    )


def _record_data(data: Dataset) -> DataRecord:
    return DataRecord(
        name=data.name,
        fingerprint=data.fingerprint,
        train=len(data.train),
        calibration=len(data.calibration),
        test=len(data.test),
        labels=data.has_labels,
    )
