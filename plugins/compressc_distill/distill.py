"""The `distill` pass: train the graph as it stands to answer as the teacher does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from compressc.analysis.coverage import Verdict
from compressc.data import Split
from compressc.ir import Graph
from compressc.pipeline import Context, Pass
from compressc.plugins import OBJECTIVES, distribution, load
from compressc.training import Lesson, Moment, Recipe, TrainingResult, train
from compressc_distill.features import Pair, choose_points, find_pairs
from compressc_distill.holdout import hold_out
from compressc_distill.objectives import Objective
from compressc_distill.outputs import Rows, logits_name
from compressc_distill.reach import judge
from compressc_distill.teacher import Reader, Teacher
from compressc_distill.teaching import Mixture, Teaching


class Distill(Pass):
    """Train the model as it stands to answer as the model the run started with.

    Loss = alpha * cross entropy + (1 - alpha) * T^2 * KL(teacher/T || student/T) (Hinton, Vinyals
    and Dean 2015), without labels the second term alone; plus, by `features`, the normalized
    squared error of inner values, paired with the teacher's through the lineage of the graph.

    A tenth of the training data is held out; the state that does best on it is kept, and that may
    be the one before training. The test data is not looked at.
    """

    name: ClassVar[str] = "distill"
    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    after: ClassVar[Mapping[str, str]] = {
        "prune": "distillation recovers what pruning cuts",
        "lowrank": "distillation recovers what factorization loses",
    }

    epochs: Annotated[int, Field(ge=1, le=100_000)] = 20
    """How often to go through the training data."""
    lr: Annotated[float, Field(gt=0, le=1)] = 2e-3
    """Peak learning rate of AdamW; it warms up, then falls by a cosine."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Samples in a step."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Weight of the labels against the teacher's answers; 0 without labels."""
    temperature: Annotated[float, Field(gt=0, le=1000)] = 4.0
    """T of the distillation loss: a higher one makes more of the unlikely classes."""
    objective: str = "kd"
    """The distillation loss: `kd`, `mse_logits`, `dkd` or one that a plugin brings."""
    features: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the feature loss; 0 for none."""
    feature_points: Annotated[int, Field(ge=1)] = 4
    """At how many ends of blocks features are matched."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Weight decay of AdamW on matrices and filters."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the steps over which the learning rate rises."""
    clip: Annotated[float, Field(ge=0)] = 1.0
    """Largest norm of the gradient; 0 for any."""
    holdout: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    """Share of the training data that is held out to choose the best epoch."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Added to the seed of the run."""

    @field_validator("objective")
    @classmethod
    def _known(cls, name: str) -> str:
        """A misspelt objective is an error before any work starts."""
        distribution(OBJECTIVES, name)
        return name

    def uses(self) -> tuple[Any, ...]:
        """The objective: another one of the same name makes another result."""
        return (load(OBJECTIVES, self.objective),)

    def cache_key(self) -> dict[str, Any]:
        """The options, and the release that the objective comes from."""
        return {**super().cache_key(), "objective_from": distribution(OBJECTIVES, self.objective)}

    def run(self, graph: Graph, ctx: Context) -> None:
        """Train the layers of the graph in place.

        Raises:
            CompresscError: CC105 without data, CC107 for an unknown objective, CC301 where data and
                model do not fit, CC502 where not even the start scores a finite number.
        """
        data = ctx.require_data(self.name)
        output = logits_name(graph)
        trained = {op.name: op.layer for op in graph if op.layer and list(op.layer.parameters())}
        if not trained:
            ctx.note(output, "skipped: the graph has no parameters to train")
            return
        seed = ctx.seed + self.seed
        teaching, exam = self._lessons(graph, ctx, hold_out(data.train, self.holdout, seed))
        recipe = Recipe(self.epochs, self.lr, self.weight_decay, self.warmup, self.clip, seed)
        batches = teaching.batches(self.batch_size)
        lesson = Lesson(batches, teaching.loss, exam.examine, teaching.seen())
        try:
            result = train(teaching.student.module, lesson, recipe, progress=report(ctx))
        finally:
            teaching.student.module.to("cpu")
        ctx.note(output, summary(result, len(exam.samples)))
        if result.best_epoch:
            for name, layer in trained.items():
                graph.set_layer(name, layer)

    def _lessons(
        self, graph: Graph, ctx: Context, splits: tuple[Split, Split]
    ) -> tuple[Teaching, Teaching]:
        """What is taught, and what is examined."""
        pairs = self._pairs(graph, ctx)
        taught, examined = logits_name(ctx.teacher), logits_name(graph)
        teacher = Reader(_on(ctx.teacher, ctx), taught, [p.teacher for p in pairs], ctx.device)
        student = Reader(graph, examined, [p.student for p in pairs], ctx.device)
        objective: Objective = load(OBJECTIVES, self.objective)
        mixture = Mixture(objective, self.alpha, self.temperature, self.features)
        lessons = []
        for part in splits:
            labels = None if part.labels is None else part.labels.to(ctx.device)
            samples = Split(tuple(x.to(ctx.device) for x in part.inputs), labels)
            answers = Teacher(teacher, pairs, samples.inputs)
            rows = Rows.fit(answers.ask(samples.take(1).inputs).logits, samples.take(1).labels)
            lessons.append(Teaching(samples, answers, student, rows, mixture))
        self._say(graph, ctx, splits[0])
        for name, verdict in judge(graph, examined, {p.student: p for p in pairs}).items():
            if verdict.outcome == "cannot":
                ctx.note(name, f"skipped: {verdict.text}")
        return lessons[0], lessons[1]

    def coverage(self, graph: Graph, ctx: Context) -> Mapping[str, Verdict]:
        """By what a gradient gets to. Whether an epoch beats the start is not foretold."""
        return judge(graph, logits_name(graph), self._points(graph, ctx))

    def _points(self, graph: Graph, ctx: Context) -> dict[str, Pair]:
        """The feature points: student value -> pair."""
        if not self.features:
            return {}
        found = find_pairs(graph, ctx.teacher)
        points = choose_points(graph, logits_name(graph), found, self.feature_points)
        return {name: found[name] for name in points}

    def _pairs(self, graph: Graph, ctx: Context) -> list[Pair]:
        """The feature points, each with a note."""
        points = self._points(graph, ctx)
        for name, pair in points.items():
            ctx.note(name, str(pair))
        if self.features and not points:
            text = "no inner value still stands for one of the teacher: features are off"
            ctx.note(logits_name(graph), text)
        return list(points.values())

    def _say(self, graph: Graph, ctx: Context, split: Split) -> None:
        """Notes on what is left out."""
        output = logits_name(graph)
        others = [f"%{name}" for name in graph.output_names if name != output]
        if others:
            ctx.note(output, f"the output that is distilled; {', '.join(others)} only follow")
        if split.labels is None:
            ctx.note(output, "no labels: distilled by the teacher's answers alone")


def _on(graph: Graph, ctx: Context) -> Graph:
    """A teacher that may be moved to the device: the run's own stays where it is."""
    return graph if ctx.device.type == "cpu" else graph.copy()


def report(ctx: Context) -> Callable[[Moment], None]:
    """A listener that passes training progress on to the run."""

    def tell(moment: Moment) -> None:
        loss, right = -moment.score[0], moment.score[1]
        text = f"distill epoch {moment.epoch}/{moment.epochs} loss {moment.loss:.4f}"
        text += f" held-out loss {loss:.4f} acc {right:.4f}"
        ctx.progress(text, moment.step, moment.steps)

    return tell


def summary(result: TrainingResult, samples: int) -> str:
    """One line for the report: what was kept, and how it does on the samples held out."""
    before, after = (f"loss {-s[0]:.4f}, accuracy {s[1]:.4f}" for s in (result.start, result.best))
    epochs = len(result.history)
    if result.best_epoch:
        text = f"kept epoch {result.best_epoch} of {epochs}: {after} on {samples} held-out samples"
        text += f", before training {before}"
    else:
        text = (
            f"no epoch of {epochs} was better than the start ({before}): weights left as they were"
        )
    if result.diverged:
        text += f"; training diverged in epoch {result.diverged}"
    return text
