"""From a run to its `Record`: scores and cost of the teacher and of the graph after each pass."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import TYPE_CHECKING

from compressc.analysis import total_cost
from compressc.ir import Graph, dimension_symbols, graph_hash, lower
from compressc.measure import Judge
from compressc.report.machine import describe_machine, library_versions
from compressc.report.record import DataRecord, Note, PassRecord, Record, TaskRecord, TeacherRecord
from compressc.tasks import Scoring

if TYPE_CHECKING:
    from compressc.data import Dataset
    from compressc.frontend import Loaded
    from compressc.pipeline import PassResult, Samples

#: What open dimensions are taken to be where no data tell: as `compressc inspect` takes them.
_OPEN = 128


class Recorder:
    """Makes the record of a run while it goes on: a graph is measured when its pass is done.

    So nobody has to hold a graph for each pass. Scores are of the test part, which no pass sees.

    Args:
        loaded: the teacher.
        data: parts of the data; None for none.
        judge: scores models on the test part; None where nothing can be judged.
    """

    def __init__(self, loaded: Loaded, data: Dataset | None, judge: Judge | None) -> None:
        self.loaded, self.data = loaded, data
        self._judge = judge
        self._sizes = _sizes(loaded.graph, None if data is None else data.test)
        self._passes: list[PassRecord] = []
        self._started = time.perf_counter()

    def add(self, result: PassResult) -> None:
        """Measure what a pass made."""
        self._passes.append(_record_pass(result, self._judge, self._sizes))

    def record(self, seed: int, command: str) -> Record:
        """The record of all that was added, without files."""
        judge, data, loaded = self._judge, self.data, self.loaded
        cost = total_cost(loaded.graph, **self._sizes)
        teacher = TeacherRecord(
            source=loaded.source,
            ops=len(loaded.graph),
            parameters=cost.parameters,
            macs=cost.macs,
            scores={} if judge is None else _by_labels(judge.of_teacher),
            recalls=[] if judge is None else judge.of_teacher.recalls,
            sha256=graph_hash(loaded.graph),
            notes=[Note(op="", text=text) for text in loaded.notes],
        )
        return Record(
            compressc_version=version("compressc"),
            command=command,
            seed=seed,
            versions=library_versions(),
            machine=describe_machine(),
            teacher=teacher,
            sizes={name: size for name, size in self._sizes.items() if size != 1},
            task=None if judge is None else _record_task(judge),
            data=None if data is None else _record_data(data),
            passes=list(self._passes),
            wall_seconds=time.perf_counter() - self._started,
        )


def _by_labels(teacher: Scoring) -> dict[str, float]:
    """The teacher's scores against labels alone: it always agrees with itself."""
    by_labels = {metric.name for metric in teacher.metrics if metric.against == "labels"}
    return {name: value for name, value in teacher.values().items() if name in by_labels}


def _record_task(judge: Judge) -> TaskRecord:
    settled, teacher = judge.settled, judge.of_teacher
    meant = teacher.values()
    return TaskRecord(
        name=settled.task.name,
        text=settled.task.text,
        named=settled.named,
        output=settled.output,
        kind=settled.kind,
        labels=settled.labels,
        reason=settled.reason,
        warnings=list(settled.warnings),
        metrics=[metric for metric in teacher.metrics if metric.name in meant],
        constant=teacher.constants(),
        classes=teacher.class_counts,
        unequal=teacher.unequal,
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


def _record_pass(result: PassResult, judge: Judge | None, sizes: dict[str, int]) -> PassRecord:
    pass_ = result.step.pass_
    cost = total_cost(result.graph, **sizes)
    scoring = None if judge is None else judge.of(lower(result.graph))
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
        scores={} if scoring is None else scoring.values(),
        recalls=[] if scoring is None else scoring.recalls,
        notes=[Note(op=op, text=text) for op, text in result.notes],
        records=dict(result.records),
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
        validation=0 if data.validation is None else len(data.validation),
        fingerprint_of="content" if data.hashed_whole else "samples",
    )
