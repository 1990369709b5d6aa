"""Settling the task: one forward of a few samples, before any pass runs."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from compressc.errors import CompresscError
from compressc.ir import Graph, lower
from compressc.pipeline import Context, Samples, TransferSet
from compressc.strangers import reading
from compressc.tasks.fit import Skill, are_targets, fits, skill
from compressc.tasks.response import Kind, Response, as_rows, find_responses
from compressc.tasks.settled import SettledTask

#: Samples the teacher is asked about; more, where these leave open whether it knows the labels.
FEW, MANY, BATCH = 64, 1024, 16
#: Numbers that its outputs may hold together: a language model's logits are large.
ROOM = 1 << 25

#: Which kind is judged where nothing else tells.
_RANK: dict[Kind, int] = {
    "class_scores": 0,
    "independent_scores": 1,
    "embedding": 2,
    "values": 3,
    "ids": 4,
}
_TITLES: dict[Kind, str] = {
    "class_scores": "class scores",
    "independent_scores": "independent scores",
    "values": "values",
    "embedding": "an embedding",
    "ids": "ids",
}


def task_of(ctx: Context) -> SettledTask:
    """The task of a run; settled here where a pass is run by itself."""
    return ctx.task if ctx.task is not None else settle(ctx.teacher, ctx.data)


def settle(graph: Graph, data: TransferSet | None = None, output: str | None = None) -> SettledTask:
    """Which output is judged, what is learned of it and what the labels mean.

    Args:
        graph: the teacher.
        data: the transfer set. The teacher is asked about samples of its training part; of the test
            part where no other has labels.
        output: the output to judge, by its key or name; chosen where it is not given.

    Raises:
        CompresscError: CC301 where the model puts out nothing for each sample, where there is no
            output of that name, or where labels fit no output.
    """
    responses = find_responses(graph)
    if not responses:
        raise CompresscError(
            "CC301",
            "a model returns a tensor with one row for each sample",
            got=", ".join(str(graph[name].type) for name in graph.output_names) or "nothing",
            hint="compress a module whose forward returns logits [n, ...]",
        )
    if data is None:
        return _without_labels(_wanted(responses, output), responses, output)
    probe = _Probe(graph, data)
    responses = [_measured(r, x) for r, x in zip(responses, probe.outputs(responses), strict=True)]
    candidates = _wanted(responses, output)
    if not probe.samples.has_labels:
        task = _without_labels(candidates, responses, output)
        return replace(task, signs=_two_sided(task, probe))
    return _with_labels(candidates, responses, output, probe)


def _wanted(responses: Sequence[Response], output: str | None) -> list[Response]:
    if output is None:
        return list(responses)
    names = [r.name for r in responses]
    if output not in names:
        near = difflib.get_close_matches(output, names, 1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise CompresscError(
            "CC301",
            f"the output to judge is one of {', '.join(names)}",
            got=repr(output),
            hint=f"{hint}outputs have the names of the graph's text, or their keys",
        )
    return [r for r in responses if r.name == output]


class _Probe:
    """The teacher's outputs for a few samples of one part, drawn at random."""

    def __init__(self, graph: Graph, data: TransferSet, part: str = "", few: int = FEW) -> None:
        self.graph, self.data = graph, data
        if not part:
            by_test = not data.train.has_labels and data.test.has_labels
            part = "test" if by_test else "train"
        self.part, self.samples = part, _parts(data)[part]
        # at random, because labels may be sorted
        order = torch.randperm(len(self.samples), generator=torch.Generator().manual_seed(0))
        self._order, self.index = order[:MANY], order[:few]
        self._known: dict[int, Tensor] = {}
        self._labels: list[Tensor] = []

    def widen(self) -> bool:
        """Look at more samples; False where there are none, or no room for more."""
        if len(self.index) < min(FEW, len(self._order)) or len(self.index) == len(self._order):
            return False
        self.index, self._known, self._labels = self._order, {}, []
        return True

    @property
    def labels(self) -> Tensor:
        """Of the samples, `[k, ...]`."""
        if not self._labels:
            self._labels = [self.samples.select(self.index).labels]
        return torch.cat(self._labels)[: len(self.index)]

    @property
    def highest(self) -> int:
        """The highest label of all parts: one out of range anywhere is found before any work."""
        labels = [part.all_labels() for part in _parts(self.data).values()]
        labels.append(self.labels)
        return max(int(some.max()) for some in labels if some is not None)

    def outputs(self, responses: Sequence[Response]) -> list[Tensor]:
        """What the teacher puts out for the samples, `[k, ...]` each."""
        missing = [r for r in responses if r.index not in self._known]
        if missing:
            names = [self.graph.output_names[r.index] for r in missing]
            parts = list(self._run(lower(self.graph, also=names)))
            for response, column in zip(missing, zip(*parts, strict=True), strict=True):
                self._known[response.index] = torch.cat(column)
        count = min(map(len, self._known.values()))
        self.index = self.index[:count]
        return [self._known[r.index][:count] for r in responses]

    @torch.no_grad()
    def _run(self, module: nn.Module) -> Iterator[list[Tensor]]:
        """Batch by batch, until there is no room for more."""
        room, self._labels = ROOM, []
        for index in torch.split(self.index, BATCH):
            batch = self.samples.select(index)
            if self.samples.has_labels:
                self._labels.append(batch.labels)
            wanted, hint = f"the model runs on the {self.part} data", "check the data set"
            with reading("CC204", wanted, self.graph.name, hint):
                values = module(*batch.inputs)[1]
            for value in values:
                _check_rows(value, len(index))
            yield values
            room -= sum(value.numel() for value in values)
            if room < 0:
                return


def _parts(data: TransferSet) -> dict[str, Samples]:
    return {"train": data.train, "calibration": data.calibration, "test": data.test}


def _check_rows(value: Tensor, samples: int) -> None:
    if value.shape[0] != samples:
        raise CompresscError(
            "CC301",
            f"a model returns {samples} rows for {samples} samples",
            got=f"shape {list(value.shape)}",
            hint="compress a module whose forward returns logits [n, ...]",
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


def _two_sided(task: SettledTask, probe: _Probe) -> bool:
    """Whether single numbers fall on both sides of zero, the rarer one in five of a hundred."""
    if task.kind != "values" or task.judged.dim is not None:
        return False
    (output,) = probe.outputs([task.judged])
    share = float((output > 0).double().mean())
    return 0.05 <= share <= 0.95


def _all_near(numbers: Tensor, wanted: float) -> bool:
    return bool(((numbers - wanted).abs() < 1e-3).all())


def _without_labels(
    candidates: Sequence[Response], responses: Sequence[Response], output: str | None
) -> SettledTask:
    """Choose by kind: what says most about a model comes first."""
    best = min(candidates, key=lambda r: (_RANK[r.kind], r.name != "logits"))
    equal = [r for r in candidates if r.kind == best.kind and r is not best and r.name != "logits"]
    warnings = []
    if equal and best.name != "logits":
        names = ", ".join(f"'{r.name}'" for r in equal)
        warnings.append(f"output '{best.name}' is judged; {names} may be meant as well (--judged)")
    chosen = "the one that was named" if output is not None else "no labels say otherwise"
    reason = f"output '{best.name}' is judged as {_TITLES[best.kind]}: {chosen}"
    return SettledTask(best, tuple(responses), reason=reason, warnings=tuple(warnings))


def _with_labels(
    candidates: Sequence[Response], responses: Sequence[Response], output: str | None, probe: _Probe
) -> SettledTask:
    """Choose the output whose labels the teacher knows best."""
    for response, value in zip(candidates, probe.outputs(candidates), strict=True):
        _refuse_one_hot(response, value, probe.labels)
    found = [
        reading
        for response, value in zip(candidates, probe.outputs(candidates), strict=True)
        for reading in fits(response, value, probe.labels)
    ]
    usable = [r for r in found if _in_range(r, probe)]
    if not usable:
        return _unusable(candidates, responses, output, probe, found)
    ranked = _ranked(usable, probe)
    best, how_well = ranked[0]
    _require_alike(best, probe)
    task = SettledTask(
        best,
        tuple(best if r.index == best.index else r for r in responses),
        labels=not how_well.at_chance,
        per_position=math.prod(probe.labels.shape[1:]) > 1,
    )
    named = f"output '{best.name}' is judged as {_TITLES[best.kind]}"
    figures = _figures(best, how_well)
    if how_well.at_chance:
        return _dropped(task, candidates, f"the labels are not known to the teacher: {figures}")
    others = {f"'{r.name}'" for r, s in ranked[1:] if r.index != best.index and not s.at_chance}
    warnings = []
    if others and output is None:
        names = ", ".join(sorted(others))
        warnings.append(
            f"{named}, whose labels the teacher knows best; they fit {names}, too (--judged)"
        )
    return replace(task, reason=f"{named}: {figures}", warnings=tuple(warnings))


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


def _require_alike(best: Response, probe: _Probe) -> None:
    """See that the labels of the other parts are targets of the same kind.

    Raises:
        CompresscError: CC301 naming the part.
    """
    for name, part in _parts(probe.data).items():
        if not part.has_labels or part is probe.samples:
            continue
        other = _Probe(probe.graph, probe.data, name, few=2)
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


def _ranked(usable: Sequence[Response], probe: _Probe) -> list[tuple[Response, Skill]]:
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


def _in_range(response: Response, probe: _Probe) -> bool:
    """Whether every label is one of the classes."""
    if response.kind != "class_scores" or response.dim is None:
        return True
    (output,) = probe.outputs([response])
    return probe.highest < output.shape[response.dim]


def _unusable(
    candidates: Sequence[Response],
    responses: Sequence[Response],
    output: str | None,
    probe: _Probe,
    found: Sequence[Response],
) -> SettledTask:
    """Labels that are no targets: dropped where the model has no classes, else an error.

    Raises:
        CompresscError: CC301 naming what does not fit.
    """
    labels = probe.labels
    if any(r.kind == "embedding" for r in candidates) and labels[0].numel() == 1:
        task = _without_labels([r for r in candidates if r.kind == "embedding"], responses, output)
        text = "the labels are not used: an embedding has no scores of classes"
        return replace(task, warnings=(*task.warnings, text))
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
    outputs = zip(candidates, probe.outputs(candidates), strict=True)
    shapes = ", ".join(f"'{r.name}' {list(x.shape)}" for r, x in outputs)
    raise CompresscError(
        "CC301",
        "labels fit an output: a class for each row of scores, or a target for each number",
        got=f"labels {list(labels.shape)} for outputs {shapes}",
        hint=hint,
    )


def _dropped(task: SettledTask, candidates: Sequence[Response], why: str) -> SettledTask:
    """The task without its labels, as the graph alone has it."""
    index = task.judged.index
    plain = next(r for r in candidates if r.index == index)
    responses = tuple(plain if r.index == index else r for r in task.responses)
    reason = f"output '{plain.name}' is judged as {_TITLES[plain.kind]}: the labels are not used"
    return SettledTask(plain, responses, reason=reason, warnings=(f"{why}: they are not used",))


def _figures(response: Response, how_well: Skill) -> str:
    if response.kind == "values":
        return f"R^2 of the teacher {how_well.score:.2f} on {how_well.count} labels"
    right = f"{how_well.score * 100:.1f} % of {how_well.count} labels"
    return f"the teacher is right on {right}, where chance is {how_well.chance * 100:.1f} %"
