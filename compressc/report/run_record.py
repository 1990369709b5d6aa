"""From a run to its `Record`: quality and cost of the teacher and of the graph after each pass."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch

from compressc.analysis import total_cost
from compressc.ir import graph_hash
from compressc.ir.running import logits_of
from compressc.measure import accuracy, agreement, predict
from compressc.report.machine import describe_machine, library_versions
from compressc.report.record import DataRecord, Note, PassRecord, Record, TeacherRecord

if TYPE_CHECKING:
    from compressc.data import Dataset, Split
    from compressc.frontend import Loaded
    from compressc.pipeline import PassResult


def record_run(
    loaded: Loaded, data: Dataset | None, results: Sequence[PassResult], seed: int, command: str
) -> Record:
    """The record of a run, without files; measured on the test part, which no pass has seen."""
    started = time.perf_counter()
    test = None if data is None else data.test
    logits = None if test is None else predict(logits_of(loaded.graph), test)
    cost = total_cost(loaded.graph)
    teacher = TeacherRecord(
        source=loaded.source,
        ops=len(loaded.graph),
        parameters=cost.parameters,
        macs=cost.macs,
        accuracy=_accuracy(logits, test),
        sha256=graph_hash(loaded.graph),
        notes=[Note(op="", text=text) for text in loaded.notes],
    )
    passes = [_record_pass(result, test, logits) for result in results]
    return Record(
        compressc_version=version("compressc"),
        command=command,
        seed=seed,
        versions=library_versions(),
        machine=describe_machine(),
        teacher=teacher,
        data=None if data is None else _record_data(data),
        passes=passes,
        wall_seconds=time.perf_counter() - started,
    )


def _record_pass(
    result: PassResult, test: Split | None, teacher_logits: torch.Tensor | None
) -> PassRecord:
    pass_ = result.step.pass_
    logits = None if test is None else predict(logits_of(result.graph), test)
    cost = total_cost(result.graph)
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
        accuracy=_accuracy(logits, test),
        agreement=agreement(logits, teacher_logits)
        if logits is not None and teacher_logits is not None
        else None,
        notes=[Note(op=op, text=text) for op, text in result.notes],
        inserted_for=result.step.inserted_for,
    )


def _accuracy(logits: torch.Tensor | None, test: Split | None) -> float | None:
    if logits is None or test is None or test.labels is None:
        return None
    return accuracy(logits, test.labels)


def _record_data(data: Dataset) -> DataRecord:
    return DataRecord(
        name=data.name,
        fingerprint=data.fingerprint,
        train=len(data.train),
        calibration=len(data.calibration),
        test=len(data.test),
        labels=data.has_labels,
    )
