"""A short training inside another pass: a graph learns to answer as the run's teacher does."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from compressc.distillation.by_output import objective_of
from compressc.distillation.holdout import parts_of
from compressc.distillation.lesson import Teaching, suits, trial_of_statistics
from compressc.distillation.loss import Loss
from compressc.distillation.objective import Objective, parse_objective
from compressc.distillation.points import Pair
from compressc.distillation.teacher import Keeping, Teacher, given_basis, reader_of
from compressc.ir import Graph
from compressc.pipeline import Context, Samples
from compressc.pipeline.conditions import conditions
from compressc.spec import Weighted
from compressc.tasks import Metric, Response, SettledTask, task_of
from compressc.training import (
    Checkpoints,
    Hooks,
    Moment,
    Recipe,
    TrainingResult,
    batch_size,
    channels_last_for,
    precision_for,
    train,
)

#: Share of the training part that is held out, where the data bring no part to choose by.
HELD_OUT = 0.1


class Progress(Hooks):
    """Tells a run how far a training inside it is."""

    def __init__(self, ctx: Context, what: str) -> None:
        self.ctx, self.what = ctx, what

    def stepped(self, moment: Moment) -> None:
        """See `Hooks`."""
        self.ctx.progress(self.what, moment.step, moment.steps)


@dataclass(frozen=True)
class Recovered:
    """What a recovery came to, on samples that it did not learn from.

    Attributes:
        result: of the training; its scores are (minus the loss, score).
        metric: what is scored.
    """

    result: TrainingResult
    metric: Metric

    def __str__(self) -> str:
        """`loss 0.31 -> 0.04, accuracy 0.91 -> 0.98`."""
        start, best = self.result.start, self.result.best
        losses = f"loss {-start[0]:.4f} -> {-best[0]:.4f}"
        return f"{losses}, {self.metric.title} {start[1]:.4f} -> {best[1]:.4f}"

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        start, best = self.result.start, self.result.best
        return {
            "loss": [-start[0], -best[0]],
            "score": [start[1], best[1]],
            "metric": self.metric.name,
            "best epoch": self.result.best_epoch,
        }


def recover(graph: Graph, ctx: Context, *, epochs: int, name: str, what: str) -> Recovered:
    """Train a graph in place to answer as the teacher does, by the objective of each output.

    What is learned is the answers alone, without labels and inner values; the best epoch by samples
    held out is kept, the start among them. The same call gives the same bytes, also where a process
    was killed in between.

    Args:
        graph: with parameters.
        ctx: of the pass; it has data, the teacher and the task.
        epochs: of the training.
        name: of its checkpoints, one for each recovery of a pass.
        what: is told as progress.

    Raises:
        CompresscError: CC105 without data, CC502 where no state scores a finite number.
    """
    task, seed = task_of(ctx), ctx.seed
    loss = loss_of_answers(task)
    parts = parts_of(ctx.require_data(name), HELD_OUT, seed)
    trained = {op.name: op.layer for op in graph if op.layer and list(op.layer.parameters())}
    with ExitStack() as opened:
        teaching, exam = teachings(graph, ctx, parts, loss, keeping=_keeping(ctx), opened=opened)
        module, probe = teaching.student.module, teaching.probe()
        trial = trial_of_statistics(teaching, exam)
        recipe = Recipe(
            epochs=epochs,
            learning_rate=None,
            seed=seed,
            dropout=False,
            batch_statistics=trial is None or suits(trial),
            channels_last=channels_last_for(module, probe)[0],
            precision=precision_for(module, probe)[0],
        )
        size = batch_size(len(teaching.samples), epochs)
        lesson = teaching.lesson(teaching.batches(size), exam.examine)
        kept = Checkpoints.of(ctx.store, name)
        try:
            result = train(module, lesson, recipe, hooks=[Progress(ctx, what)], checkpoints=kept)
        finally:
            module.to("cpu")
    if result.best_epoch:
        for op, layer in trained.items():
            graph.set_layer(op, layer)
    return Recovered(result, exam.metric)


def teachings(  # noqa: PLR0913  (who learns what from whom)
    graph: Graph,
    ctx: Context,
    parts: tuple[Samples, Samples],
    loss: Loss,
    *,
    matched: Sequence[Pair] = (),
    keeping: Keeping | None = None,
    opened: ExitStack | None = None,
) -> tuple[Teaching, Teaching]:
    """What is taught, and what is examined, of a graph and the run's teacher.

    Args:
        graph: of the student.
        ctx: has the teacher, the task and the device.
        parts: samples to teach, and to examine as they are.
        loss: what is minimized.
        matched: inner values that terms read.
        keeping: how the teacher's answers are kept.
        opened: lets the answers go when it ends.
    """
    task = task_of(ctx)
    read = [
        (ctx.teacher_to_move(), [pair.teacher for pair in matched]),
        (graph, [pair.student for pair in matched]),
    ]
    teacher, reader = (reader_of(g, task, names, ctx.device) for g, names in read)
    found = []
    for samples, plain in zip(parts, (False, True), strict=True):
        answers = Teacher(teacher, matched, samples, ctx.device, keeping, plain=plain)
        if opened is not None:
            opened.callback(answers.close)
        found.append(Teaching(samples, ctx.device, answers, reader, task, loss))
    own = loss.fit(found[1].first_seen(), ctx.seed)
    taught, exam = (replace(one, loss=own) for one in found)
    return taught, exam


def loss_of_answers(task: SettledTask) -> Loss:
    """What says how far answers are from a teacher's: for each output the objective of its kind."""
    first, *others = task.learned
    return Loss((Weighted(1.0, _objective(first)),), tuple((r, _objective(r)) for r in others))


def _objective(response: Response) -> Objective:
    return parse_objective(objective_of(response))


def _keeping(ctx: Context) -> Keeping:
    """Large answers lie on disk, for every recovery of the teacher."""
    return Keeping(
        folder=ctx.store.answers,
        most=ctx.store.most,
        basis=lambda: {
            **given_basis(ctx.teacher, task_of(ctx), ctx.seed),
            "conditions": conditions(ctx.device),
        },
        say=ctx.store.say,
        progress=lambda done, total: ctx.progress("asking the teacher", done, total),
    )
