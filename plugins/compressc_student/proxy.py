"""A proxy: how near a student comes to its teacher in a few steps of training."""

from __future__ import annotations

import torch

from compressc.distillation import (
    Loss,
    Progress,
    choose_points,
    find_pairs,
    parse_loss,
    parts_of,
    teachings,
)
from compressc.ir import Graph
from compressc.pipeline import Context, Samples
from compressc.tasks import task_of
from compressc.training import Recipe, precision_for, train

#: Samples that are trained on and held out at most, in a batch, and feature points.
SAMPLES, HELD_OUT, BATCH, POINTS = 1024, 256, 32, 4
#: What is minimized; the second term, on samples held out, is the distance.
LOSS = "hint + scaled_mse"


def distance(student: Graph, ctx: Context, steps: int, what: str) -> float:
    """Mean squared error of a student's answers over the variance of the teacher's, after training.

    1 for a constant answer. What is held against the teacher in training is its inner values, too.

    Args:
        student: trained in place.
        ctx: gives teacher, task and data; told of the progress.
        steps: of training; the best state between its epochs counts.
        what: names the student in the progress.
    """
    task = task_of(ctx)
    pairs = find_pairs(student, ctx.teacher)
    points = choose_points(student, task.value_in(student), pairs, POINTS)
    matched = [pairs[name] for name in points]
    terms = tuple(t for t in parse_loss(LOSS) if points or "features" not in t.of.reads)
    taught, exam = teachings(student, ctx, _parts(ctx), Loss(terms), matched=matched)
    reader = taught.student
    recipe = Recipe(
        epochs=1,
        learning_rate=None,
        seed=ctx.seed,
        dropout=False,
        steps=steps,
        precision=precision_for(reader.module, taught.probe())[0],
    )
    lesson = taught.lesson(taught.batches(BATCH), exam.examine)
    told = Progress(ctx, f"trying {what}")
    result = train(reader.module, lesson, recipe, hooks=[told])
    return -result.best[0]


def _parts(ctx: Context) -> tuple[Samples, Samples]:
    """Some samples to train on, and others to compare by."""
    train_, held = parts_of(ctx.require_data("student"), 0.1, ctx.seed)
    return _some(train_, SAMPLES), _some(held, HELD_OUT)


def _some(samples: Samples, most: int) -> Samples:
    """So many, evenly spread: a file may be sorted by class."""
    count = min(len(samples), most)
    return samples.subset(torch.arange(count) * len(samples) // count)
