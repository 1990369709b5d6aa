"""Generations of students, each taught by the one before: `generations=` of `distill`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from compressc.ir import Graph
from compressc.pipeline import Context
from compressc.tasks import task_of
from compressc_distill.composing import task_taught
from compressc_distill.renewing import renew

#: Teaches a graph once: generation, graph, context.
Teach = Callable[[int, Graph, Context], None]


def raise_generations(graph: Graph, ctx: Context, count: int, fresh: bool, teach: Teach) -> None:
    """Train the layers of the graph in place, generation after generation; the best one is kept.

    The first is taught by the run's teacher, each other one by the one before it, from the same
    start (Furlanello et al. 2018, Born-again neural networks, arXiv 1805.04770). By the labels of
    the held-out samples, which are the same for all; without labels the last one is kept, since
    each is held against another teacher.

    Args:
        graph: the first student.
        ctx: of the pass; it has the notes and records of every generation.
        count: of generations.
        fresh: those behind the first begin with weights drawn anew.
        teach: trains a student in place.
    """
    start, teacher = graph.copy(), ctx.teacher
    task = task_of(ctx)  # of the run: what a student knows of the labels settles nothing
    found: list[tuple[float, Graph]] = []
    for number in range(1, count + 1):
        student = start.copy()
        if fresh and number > 1:
            renew(student, ctx, ctx.seed + number)
        within = replace(
            ctx,
            teacher=teacher,
            task=task,
            notes=[],
            records={},
            store=ctx.store.within(f"generation {number}"),
        )
        teach(number, student, within)
        for op, text in within.notes:
            ctx.note(op, f"generation {number}: {text}")
        ctx.record(f"generation {number}", within.records)
        found.append((_score(within.records, number), student))
        teacher = student
    labelled = task_taught(ctx).labels
    best = max(range(count), key=lambda i: found[i][0]) if labelled else count - 1
    scores = ", ".join(f"{abs(score):.4f}" for score, _ in found)
    why = f"held-out scores {scores}" if labelled else "no labels to compare them by"
    ctx.note(task.output, f"kept generation {best + 1} of {count}: {why}")
    _adopt(graph, found[best][1])


def _score(records: Mapping[str, Any], number: int) -> float:
    """The held-out score of a generation, higher is better."""
    training = records.get("training")
    if training is None:  # there was nothing to train
        return float(-number)
    score = float(training["best"][1])
    return score if training["better"] == "higher" else -score


def _adopt(graph: Graph, student: Graph) -> None:
    """Take over what was trained."""
    for op in student:
        if op.layer is not None and any(isinstance(p, nn.Parameter) for p in op.layer.parameters()):
            graph.set_layer(op.name, op.layer)
