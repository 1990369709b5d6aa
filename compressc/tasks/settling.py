"""Settling the task: one forward of a few samples, before any pass runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from compressc.errors import CompresscError
from compressc.ir import Graph
from compressc.pipeline import Context, TransferSet
from compressc.tasks.embedding import Embedding
from compressc.tasks.fit import Skill, are_targets, fits, skill
from compressc.tasks.language import settle_language_model
from compressc.tasks.own import settle_own
from compressc.tasks.probe import Probe, parts_of
from compressc.tasks.readings import Readings, titled
from compressc.tasks.response import Kind, Response, as_rows, find_responses
from compressc.tasks.rows import RowTask
from compressc.tasks.settled import SettledTask
from compressc.tasks.task import Task

#: Which kind is judged where nothing else tells.
_RANK: dict[Kind, int] = {
    "class_scores": 0,
    "independent_scores": 1,
    "embedding": 2,
    "values": 3,
    "ids": 4,
}


def task_of(ctx: Context) -> SettledTask:
    """The task of a run; settled here where a pass is run by itself."""
    return ctx.task if ctx.task is not None else settle(ctx.teacher, ctx.data)


def settle(
    graph: Graph,
    data: TransferSet | None = None,
    output: str | None = None,
    task: Task | None = None,
) -> SettledTask:
    """Which output is judged, what is learned of it and what the labels mean.

    Args:
        graph: the teacher.
        data: the transfer set. The teacher is asked about samples of its training part; of the test
            part where no other has labels.
        output: the output to judge, by its key or name; chosen where it is not given.
        task: what the model is for; inferred where it is not given.

    Raises:
        CompresscError: CC301 where the model puts out nothing for each sample, where there is no
            output of that name, or where the labels or the task fit no output; CC106 where a task
            of the user's own fails.
    """
    responses = find_responses(graph)
    if not responses:
        raise CompresscError(
            "CC301",
            "a model returns a tensor with one row for each sample",
            got=", ".join(str(graph[name].type) for name in graph.output_names) or "nothing",
            hint="compress a module whose forward returns logits [n, ...]",
        )
    probe = None if data is None else Probe(graph, data)
    if probe is not None:
        outputs = probe.outputs(responses)
        responses = [_measured(r, x) for r, x in zip(responses, outputs, strict=True)]
    if task is not None and not isinstance(task, RowTask):
        return settle_own(task, graph, responses, output, probe)
    readings = Readings(graph, responses, output, task)
    if probe is None:
        return _without_labels(readings)
    _require_one_tensor(probe)
    found = settle_language_model(readings, probe)
    if found is not None:
        return found
    if not probe.samples.has_labels:
        settled = _without_labels(readings, probe)
        return replace(settled, signs=_two_sided(settled, probe))
    return _with_labels(readings, probe)


def _require_one_tensor(probe: Probe) -> None:
    """Targets of rows are one tensor; only a task of the user's own knows what a tree of them is.

    Raises:
        CompresscError: CC301.
    """
    labels = probe.samples.take(1).labels
    if labels is not None and not isinstance(labels, Tensor):
        keys = f" of {', '.join(map(str, labels))}" if isinstance(labels, Mapping) else ""
        raise CompresscError(
            "CC301",
            "labels are one tensor, where no task of your own takes others",
            got=f"a {type(labels).__name__}{keys}",
            where=probe.part,
            hint="--task file.py:Class",
        )


def _measured(response: Response, output: Tensor) -> Response:
    """The response, with what the numbers tell and the graph does not."""
    if response.ending or response.dim is None or response.kind == "ids":
        return response
    rows = as_rows(output, response.dim).double()
    if rows.shape[1] < 2 or not bool(torch.isfinite(rows).all()):
        return response
    if _all_near(rows.norm(dim=1), 1.0) and bool((rows < 0).any()):
        return replace(response, kind="embedding", learned="embedding")
    if _all_near(rows.sum(1), 1.0) and bool((rows >= 0).all()):
        return replace(response, kind="class_scores", learned="class_scores")
    return response


def _two_sided(task: SettledTask, probe: Probe) -> bool:
    """Whether single numbers fall on both sides of zero, the rarer one in five of a hundred."""
    if task.kind != "values" or task.judged.dim is not None:
        return False
    (output,) = probe.outputs([task.judged])
    share = float((output > 0).double().mean())
    return 0.05 <= share <= 0.95


def _all_near(numbers: Tensor, wanted: float) -> bool:
    return bool(((numbers - wanted).abs() < 1e-3).all())


def _without_labels(
    readings: Readings, probe: Probe | None = None, kind: Kind | None = None
) -> SettledTask:
    """Choose by kind: what says most about a model comes first.

    Raises:
        CompresscError: CC301 where no output is what the named task judges.
    """
    candidates = []
    for given in readings.candidates:
        output = None if probe is None else probe.outputs([given])[0]
        response = readings.reread(given, output)
        if response is not None and kind in (None, response.kind):
            candidates.append(response)
    if not candidates:
        raise readings.misfit(_shapes(readings, probe))
    best = min(candidates, key=lambda r: (not r.trained, _RANK[r.kind], r.name != "logits"))
    rivals = [r for r in candidates if r.trained == best.trained and r.kind == best.kind]
    equal = [r for r in rivals if r is not best and r.name != "logits"]
    warnings = []
    if equal and best.name != "logits":
        names = ", ".join(f"'{r.name}'" for r in equal)
        warnings.append(f"output '{best.name}' is judged; {names} may be meant as well (--judged)")
    chosen = "no labels say otherwise" if readings.output is None else "the one that was named"
    reason = f"output '{best.name}' is judged as {titled(best.kind)}: {chosen}"
    return readings.settled(best, reason=reason, warnings=tuple(warnings))


def _shapes(readings: Readings, probe: Probe | None) -> str:
    if probe is None:
        return ", ".join(f"'{r.name}' {readings.shape(r)}" for r in readings.candidates)
    outputs = zip(readings.candidates, probe.outputs(readings.candidates), strict=True)
    return ", ".join(f"'{r.name}' {list(x.shape)}" for r, x in outputs)


def _with_labels(readings: Readings, probe: Probe) -> SettledTask:
    """Choose the output whose labels the teacher knows best."""
    found = _fitting(readings, probe)
    usable = [r for r in found if _in_range(r, probe)]
    if not usable:
        return _unusable(readings, probe, found)
    ranked = _ranked(usable, probe)
    best, how_well = ranked[0]
    _require_alike(best, probe)
    named = f"output '{best.name}' is judged as {titled(best.kind)}"
    figures = _figures(best, how_well)
    if how_well.at_chance:
        why = f"the labels are not known to the teacher: {figures}"
        return _dropped(readings, probe, best.index, why)
    others = {f"'{r.name}'" for r, s in ranked[1:] if r.index != best.index and not s.at_chance}
    warnings = []
    if others and readings.output is None:
        names = ", ".join(sorted(others))
        warnings.append(
            f"{named}, whose labels the teacher knows best; they fit {names}, too (--judged)"
        )
    return readings.settled(
        best,
        labels=True,
        per_position=math.prod(probe.labels.shape[1:]) > 1,
        reason=f"{named}: {figures}",
        warnings=tuple(warnings),
    )


def _fitting(readings: Readings, probe: Probe) -> list[Response]:
    """Every reading of an output that the labels can be targets of, and that the task takes.

    Raises:
        CompresscError: CC301 for classes that are not given by their index.
    """
    found = []
    pairs = list(zip(readings.candidates, probe.outputs(readings.candidates), strict=True))
    bits = readings.task is not None and "class_scores" not in readings.task.answers
    for response, output in pairs:
        if not bits:
            _refuse_one_hot(response, output, probe.labels)
        for reading in fits(response, output, probe.labels):
            again = readings.reread(reading, output)
            if again is not None and are_targets(again, output, probe.labels):
                found.append(again)
    return list(dict.fromkeys(found))


def _refuse_one_hot(response: Response, output: Tensor, labels: Tensor) -> None:
    """One 1 in each row of scores is a class, not so many answers of yes and no.

    Raises:
        CompresscError: CC301 saying how to give classes.
    """
    dim = response.dim
    if response.kind != "class_scores" or dim is None or labels.shape != output.shape:
        return
    bits = bool(((labels == 0) | (labels == 1)).all())
    if bits and output.shape[dim] > 1 and bool((labels.sum(dim) == 1).all()):
        raise CompresscError(
            "CC301",
            "classes are given by their index",
            got=f"labels {list(labels.shape)} with one 1 in each row",
            where=f"output '{response.name}'",
            hint=f"y.argmax({dim}) turns them into indices",
        )


def _require_alike(best: Response, probe: Probe) -> None:
    """See that the labels of the other parts are targets of the same kind.

    Raises:
        CompresscError: CC301 naming the part.
    """
    for name, part in parts_of(probe.data).items():
        if not part.has_labels or part is probe.samples:
            continue
        other = Probe(probe.graph, probe.data, name, few=2)
        (output,) = other.outputs([best])
        if not are_targets(best, output, other.labels):
            kinds = [
                ("float" if x.is_floating_point() else "integer")
                for x in (other.labels, probe.labels)
            ]
            raise CompresscError(
                "CC301",
                f"the labels of all parts are of one kind, as in {probe.part}: "
                f"{kinds[1]} [n{_rest(probe.labels)}]",
                got=f"{kinds[0]} [n{_rest(other.labels)}] in {name}",
                where=f"output '{best.name}'",
                hint="give them alike, or leave them out of this part",
            )


def _rest(labels: Tensor) -> str:
    return "".join(f",{size}" for size in labels.shape[1:])


def _ranked(usable: Sequence[Response], probe: Probe) -> list[tuple[Response, Skill]]:
    def judged() -> list[tuple[Response, Skill]]:
        outputs = probe.outputs(usable)
        pairs = [(r, skill(r, x, probe.labels)) for r, x in zip(usable, outputs, strict=True)]
        return sorted(pairs, key=lambda pair: -_finite(pair[1].sigmas))

    ranked = judged()
    if ranked[0][1].sigmas < 4 and probe.widen():
        ranked = judged()
    return ranked


def _finite(sigmas: float) -> float:
    return -math.inf if math.isnan(sigmas) else sigmas


def _in_range(response: Response, probe: Probe) -> bool:
    """Whether every label is one of the classes."""
    if response.kind != "class_scores" or response.dim is None:
        return True
    (output,) = probe.outputs([response])
    return probe.highest < output.shape[response.dim]


def _unusable(readings: Readings, probe: Probe, found: Sequence[Response]) -> SettledTask:
    """Labels that are no targets: dropped where the model has no classes, else an error.

    Raises:
        CompresscError: CC301 naming what does not fit.
    """
    labels, candidates = probe.labels, readings.candidates
    asked = readings.task is not None and isinstance(readings.task, Embedding)
    vectors = any(r.kind == "embedding" for r in candidates) and readings.task is None
    if asked or (vectors and labels[0].numel() == 1):
        settled = _without_labels(readings, probe, kind="embedding")
        text = "the labels are not used: an embedding has no scores of classes"
        return replace(settled, warnings=(*settled.warnings, text))
    hint = "leave the labels out to follow the teacher alone"
    if labels.is_floating_point() and bool((labels == labels.round()).all()):
        hint = f"give class indices as integers, y.astype('int64'); or {hint}"
    if found and found[0].dim is not None:
        (value,) = probe.outputs(found[:1])
        raise CompresscError(
            "CC301",
            f"labels are below the model's {value.shape[found[0].dim]} classes",
            got=str(probe.highest),
            where=f"output '{found[0].name}'",
            hint=f"number the classes as the model does, or {hint}",
        )
    got = f"labels {list(labels.shape)} for outputs {_shapes(readings, probe)}"
    if readings.task is not None:
        raise readings.misfit(got)
    raise CompresscError(
        "CC301",
        "labels fit an output: a class for each row of scores, or a target for each number",
        got=got,
        hint=hint,
    )


def _dropped(readings: Readings, probe: Probe, index: int, why: str) -> SettledTask:
    """The task without its labels, as the graph alone has it."""
    given = next(r for r in readings.candidates if r.index == index)
    plain = readings.reread(given, probe.outputs([given])[0]) or given
    reason = f"output '{plain.name}' is judged as {titled(plain.kind)}: the labels are not used"
    return readings.settled(plain, reason=reason, warnings=(f"{why}: they are not used",))


def _figures(response: Response, how_well: Skill) -> str:
    if response.kind == "values":
        return f"R^2 of the teacher {how_well.score:.2f} on {how_well.count} labels"
    right = f"{how_well.score * 100:.1f} % of {how_well.count} labels"
    return f"the teacher is right on {right}, where chance is {how_well.chance * 100:.1f} %"
