"""Settling a task of the user's own: all of it is tried on a few samples before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from compressc.errors import CompresscError
from compressc.ir import Graph, lower
from compressc.strangers import reading
from compressc.tasks.probe import Probe, parts_of
from compressc.tasks.readings import named_output, titled
from compressc.tasks.response import Response
from compressc.tasks.scoring import Scoring
from compressc.tasks.settled import SettledTask, by_name
from compressc.tasks.task import Task

#: Samples of each part that it is tried on.
FEW = 8


def settle_own(
    task: Task,
    graph: Graph,
    responses: Sequence[Response],
    output: str | None,
    probe: Probe | None,
) -> SettledTask:
    """A task that is no `RowTask`, with the outputs and kinds that it names.

    Raises:
        CompresscError: CC301 where the model lacks an output, or the targets of a part are refused;
            CC106 where the task itself fails.
    """
    for name in (*task.kinds, *filter(None, (task.output,))):
        named_output(responses, name)
    responses = [_of_kind(task, response) for response in responses]
    judged = named_output(responses, output or task.output)[0]
    labelled = probe is not None and probe.samples.has_labels
    settled = SettledTask(
        task,
        judged,
        tuple(responses),
        labels=labelled,
        inputs=tuple(op.name for op in graph.inputs),
        named=True,
        reason=f"output '{judged.name}' is judged as {titled(judged.kind)}, as the task has it",
    )
    if probe is not None and labelled:
        for part, samples in parts_of(probe.data).items():
            if samples.has_labels:
                _try(settled, graph, Probe(graph, probe.data, part, few=FEW))
    return settled


def _of_kind(task: Task, response: Response) -> Response:
    kind = task.kinds.get(response.name)
    if kind is None:
        return response
    learned = response.learned if response.ending else kind
    return replace(response, kind=kind, learned=learned)


def _try(settled: SettledTask, graph: Graph, probe: Probe) -> None:
    """One batch through everything that a run will ask of the task."""
    task, name = settled.task, f"the task '{settled.task.name}'"
    outputs = {r.name: x for r, x in zip(settled.responses, _outputs(settled, probe), strict=True)}
    where, batch = type(task).__qualname__, probe.samples.select(probe.index)
    targets = batch.labels
    with reading("CC106", f"{name} checks targets", where):
        wrong = task.check(outputs, targets)
    if wrong:
        raise CompresscError(
            "CC301",
            f"{name} takes {task.targets}",
            got=wrong,
            where=f"{probe.part}, outputs {by_name(outputs)}",
        )
    names = settled.values_in(graph)
    with torch.no_grad():
        values = lower(graph, also=names)(*batch.inputs)[1]
        with reading("CC106", f"{name} computes a loss", where):
            loss = settled.loss(values, targets)
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not bool(torch.isfinite(loss)):
        wanted = f"the loss of {name} is one finite number"
        raise CompresscError("CC106", wanted, got=_shown(loss), where=where)
    scoring = Scoring(settled)
    if not scoring.metrics:
        raise CompresscError("CC106", f"{name} has a score", got="none", where=where)
    scoring.update(outputs, targets, outputs)
    scoring.values()


def _outputs(settled: SettledTask, probe: Probe) -> list[Tensor]:
    return probe.outputs(settled.responses)


def _shown(loss: Any) -> str:
    if not isinstance(loss, Tensor):
        return type(loss).__name__
    return f"{float(loss)}" if loss.numel() == 1 else f"shape {list(loss.shape)}"
