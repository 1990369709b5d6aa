"""`check_task`: does a task teach what it scores, whatever the batches are?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.ir import Graph, lower
from compressc.tasks import Scoring, SettledTask, Task, settle

#: Samples that are looked at.
SAMPLES = 64
#: Of a score in a sum of another order: float32 has 7 digits.
ROUNDING = 1e-4

#: Targets of some samples -> what is right for each output, by its name: the values before a final
#: softmax, sigmoid or norm.
Right = Callable[[Any], Mapping[str, Tensor]]


@dataclass(frozen=True)
class CheckedTask:
    """What was found.

    Attributes:
        settled: the task as a run has it.
        right, constant: scores of right answers, and of one answer that is the same for all.
    """

    settled: SettledTask
    right: dict[str, float]
    constant: dict[str, float]


def check_task(
    task: Task,
    graph: Graph,
    data: Dataset,
    right: Right | None = None,
    illegal: Iterable[Any] = (),
) -> CheckedTask:
    """Hold a task against what every run takes for granted of it.

    The targets of the data are legal, and those that are not are refused in one line with a code.
    The loss is finite, and falls all the way from a constant answer to the right ones. No score is
    better than that of right answers, the first is worse for a constant answer, and the constant
    that the task calls best is none of the worse ones. Batches of other sizes in another order have
    the same scores.

    Args:
        task: with its options.
        graph: a model that knows the targets better than chance; see `export_graph`.
        data: its test part is looked at, 64 samples at most.
        right: gives right answers to targets; None for the model's own.
        illegal: targets of as many samples as the test part has, that are to be refused.

    Raises:
        CompresscError: where a run would refuse what should be legal.
        AssertionError: where anything else does not hold.
    """
    settled = settle(graph, data, task=task)
    for targets in illegal:
        _check_refused(task, graph, data, targets)
    part = data.test.take(SAMPLES)
    targets = settled.targets(part.inputs, part.labels)
    wanted = _right(settled, graph, part, targets, right)
    level = {name: _level(settled, x) for name, x in wanted.items()}
    if targets is not None:
        _check_loss(settled, level, wanted, targets)
    found = _scores(settled, wanted, targets, wanted)
    constant = _scores(settled, level, targets, wanted)
    _check_scores(settled, found, constant)
    _check_batches(settled, targets, wanted)
    return CheckedTask(settled, found.values(), constant.values())


def _check_refused(task: Task, graph: Graph, data: Dataset, targets: Any) -> None:
    inputs = data.test.take(len(data.test)).inputs
    part = Split(inputs, targets)
    wrong = Dataset(data.name, part, part, part)
    try:
        settled = settle(graph, wrong, task=task)
    except CompresscError:
        return
    raise AssertionError(f"illegal targets are taken: {settled.reason or settled.task.text}")


def _right(
    settled: SettledTask, graph: Graph, part: Split, targets: Any, right: Right | None
) -> dict[str, Tensor]:
    """Values by the names of outputs, in the order that the loss takes them."""
    names = [settled.output] if settled.by_rows else [r.name for r in settled.learned]
    if right is not None:
        found = right(targets)
        assert set(names) <= set(found), f"right answers to {names}, not to {sorted(found)}"
        return {name: found[name].detach().float() for name in names}
    with torch.no_grad():
        values = lower(graph, also=settled.values_in(graph))(*part.inputs)[1]
    return dict(zip(names, values, strict=True))


def _level(settled: SettledTask, wanted: Tensor) -> Tensor:
    """The mean of right values, for all samples alike, and for all rows of a task by rows."""
    dim = settled.judged.value_dim if settled.by_rows else None
    places = [d for d in range(wanted.ndim) if d != dim] if settled.by_rows else [0]
    return wanted.mean(places, keepdim=True).expand_as(wanted)


def _check_loss(
    settled: SettledTask, level: Mapping[str, Tensor], wanted: Mapping[str, Tensor], targets: Any
) -> None:
    """From a constant answer straight to the right ones, in quarters."""
    losses = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        values = [torch.lerp(level[name], wanted[name], share).requires_grad_() for name in wanted]
        loss = settled.loss(values, targets)
        assert loss.ndim == 0, f"a loss is a scalar, not {list(loss.shape)}"
        losses.append(float(loss.detach()))
        assert math.isfinite(losses[-1]), f"the loss is {losses[-1]}"
        if share < 1.0:
            slope = _slope(loss, values, [wanted[n] - level[n] for n in wanted])
            assert slope < 0, f"{share:.0%} of the way the gradient leads away from what is right"
    texts = ", ".join(f"{loss:.4g}" for loss in losses)
    falls = all(b < a for a, b in pairwise(losses))
    assert falls, f"the loss does not fall on the way to what is right: {texts}"


def _slope(loss: Tensor, values: list[Tensor], way: list[Tensor]) -> float:
    gradients = torch.autograd.grad(loss, values, allow_unused=True)
    pairs = zip(gradients, way, strict=True)
    return float(sum((g * d).sum() for g, d in pairs if g is not None))


def _scores(
    settled: SettledTask,
    values: Mapping[str, Tensor],
    targets: Any,
    wanted: Mapping[str, Tensor],
    batches: Iterable[Tensor] | None = None,
) -> Scoring:
    """Of outputs, fed in batches of these positions; all at once without."""
    scoring = Scoring(settled)
    responses = {r.name: r for r in settled.responses}
    ours, theirs = (
        {name: responses[name].finish(x.detach()) for name, x in side.items()}
        for side in (values, wanted)
    )
    count = len(next(iter(ours.values())))
    for index in [torch.arange(count)] if batches is None else batches:
        pick = partial(torch.index_select, dim=0, index=index)
        scoring.update(*pytree.tree_map_only(Tensor, pick, (ours, targets, theirs)))
    return scoring


def _check_scores(settled: SettledTask, found: Scoring, constant: Scoring) -> None:
    right, level, best = found.values(), constant.values(), found.constants()
    metrics = {metric.name: metric for metric in found.metrics}
    first = next(iter(metrics.values()))
    assert first.name in right, f"right answers have no score '{first.name}'"
    for name, value in level.items():
        metric = metrics[name]
        assert metric.no_better(value, right[name]), (
            f"a constant answer has {name} {value:.4g}, right ones {right[name]:.4g}"
        )
        if name in best:
            assert metric.no_better(value, best[name]), (
                f"{name} of the best constant answer is {best[name]:.4g}, of another {value:.4g}"
            )
    assert level.get(first.name) != right[first.name], (
        f"'{first.name}' is the same for a constant answer: {right[first.name]:.4g}"
    )
    if first.drop == "points" and first.better == "higher":
        assert abs(right[first.name] - 1) < ROUNDING, f"{first.name} {right[first.name]:.4g}, not 1"


def _check_batches(settled: SettledTask, targets: Any, wanted: Mapping[str, Tensor]) -> None:
    """One by one in another order, and in batches of several sizes: half of the answers right."""
    count = len(next(iter(wanted.values())))
    half = count // 2
    values = {n: torch.cat([x[:half], x[half:].roll(1, 0)]) for n, x in wanted.items()}
    whole = _scores(settled, values, targets, wanted).values()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    sizes = [1 + i % 7 for i in range(count)]
    cut = [size for i, size in enumerate(sizes) if sum(sizes[: i + 1]) <= count]
    several = torch.split(order, [*cut, *([count - sum(cut)] if sum(cut) < count else [])])
    for batches in (torch.split(order, 1), several):
        parts = _scores(settled, values, targets, wanted, batches).values()
        for name, value in whole.items():
            close = abs(parts[name] - value) <= ROUNDING * max(1.0, abs(value))
            assert close, f"{name} is {parts[name]:.6g} in other batches, {value:.6g} in one"
