"""The `exits` pass: deep layers teach shallow exits, where sure samples leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator
from torch import nn

from compressc.analysis.coverage import Verdict
from compressc.distillation import parse_objective, reader_of
from compressc.editing import choose_early, erase_unread
from compressc.errors import CompresscError
from compressc.ir import Graph, retype
from compressc.pipeline import Context, Pass
from compressc.tasks import SettledTask, task_of
from compressc.training import (
    Checkpoints,
    Recipe,
    TrainingResult,
    batch_size,
    precision_for,
    train,
)
from compressc_distill.families.exits.costs import costs_of, milliseconds
from compressc_distill.families.exits.curve import Curve
from compressc_distill.families.exits.heads import Head, Place, choose_places
from compressc_distill.families.exits.lesson import Heads
from compressc_distill.parts import split
from compressc_distill.telling import Told


class Exits(Pass):
    """Add small heads inside the model, taught by its own output; samples that are sure end there.

    Loss of each head = alpha * cross entropy with the labels + (1 - alpha) * objective with the
    output of the whole model, which no gradient reaches; the mean over the heads. With `body=true`
    the whole model is trained along, its output by the labels. Without labels the heads learn from
    the output alone. A sample leaves at the first head whose best class has `threshold` or more;
    the least threshold is taken that loses no more than `max_drop` on other samples, as the
    held-out ones foretell it, and with any higher one. Files for ONNX compute what follows in a
    branch, others compute it always. Source: Zhang et al. 2019 (Be your own teacher), arXiv
    1905.08094, equations 1 to 3, with heads of two linear layers and without its term of hidden
    values.
    """

    name: ClassVar[str] = "exits"
    reads_target: ClassVar[frozenset[str]] = frozenset({"backends", "batches", "threads"})
    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    after: ClassVar[Mapping[str, str]] = {
        "prune": "heads learn from what pruning leaves",
        "lowrank": "heads learn from what factorization leaves",
        "student": "heads are of the student",
        "sparsify": "heads learn from what zeros leave",
        "distill": "heads learn from the output that distillation makes",
        "mutual": "heads learn from the output of the peer that is kept",
    }
    before: ClassVar[Mapping[str, str]] = {
        "simplify": "heads are folded with the rest",
        "quant": "int8 weights cannot be trained",
    }

    at: float | str = 0.5
    """Where: shares of the model's multiply-accumulates between 0 and 1, or names of ops, in
    quotes: `at='0.33,0.67'`. The end of a block nearest to a share is taken."""
    max_drop: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """What the score may lose on average, in points where 1 is perfect: of n held-out samples one
    more than were lost is counted, of n + 1."""
    threshold: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] = "auto"
    """Least share of the best class that a sample leaves at; `auto` goes by `max_drop`."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the labels in the loss of a head, where there are any."""
    objective: str = "kd(T=3)"
    """What a head learns of the output, an objective of class scores."""
    body: bool = False
    """Whether the model itself is trained along; else its output stays what it is."""
    hidden: Annotated[int, Field(ge=0, le=1 << 16)] = 64
    """Width of a head between its two layers; 0 for one layer."""
    cells: Annotated[int, Field(ge=1, le=64)] = 2
    """Means that a head takes of a map, on each side."""
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 20
    """How often to go through the training data."""
    lr: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = "auto"
    """Peak learning rate of AdamW; `auto` is 0.01 of a typical weight."""
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Samples in a batch; `auto` as `distill` has it."""
    holdout: Annotated[float, Field(gt=0, le=0.5)] = 0.2
    """Share of the training data that is held out to choose epoch and threshold, where the data
    bring no validation part."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Added to the seed of the run."""

    @field_validator("at")
    @classmethod
    def _inside(cls, at: float | str) -> float | str:
        """Every share lies between input and output."""
        for part in _parts(at):
            if isinstance(part, float) and not 0 < part < 1:
                raise ValueError(f"shares are between 0, the input, and 1, the output: {at}")
        if not _parts(at):
            raise ValueError("one place at least")
        return at

    @field_validator("objective")
    @classmethod
    def _known(cls, text: str) -> str:
        """One that reads anything but answers is an error before any work starts."""
        objective = parse_objective(text)
        if not objective.reads <= {"rows"} or objective.needs_labels:
            raise ValueError(f"heads compare answers alone: {text} reads more")
        return text

    def uses(self) -> tuple[Any, ...]:
        """The objectives: another one of the same name makes another result."""
        return tuple(type(parse_objective(text)) for text in (self.objective, "ce"))

    def run(self, graph: Graph, ctx: Context) -> None:
        """Add heads, train them, and let samples leave.

        Raises:
            CompresscError: CC102 or CC105 for places, see `choose_places`; CC105 where `body` needs
                labels; CC301 where the model has no class scores, one row for each sample.
        """
        data, task, seed = ctx.require_data(self.name), task_of(ctx), ctx.seed + self.seed
        final, classes = task.value_in(graph), self._classes(graph, task)
        if self.body and not task.labels:
            raise CompresscError("CC105", "exits(body=true) learns by labels", where=self.name)
        places = choose_places(graph, ctx, _parts(self.at))
        plain = graph.copy()
        head = Head(classes, self.cells, self.hidden)
        names = [
            head.add(graph, place.name, f"exit{number}", seed + number)
            for number, place in enumerate(places, 1)
        ]
        retype(graph)
        reader = reader_of(graph, task, names, ctx.device)
        taught, examined = split(data, self.holdout, "", seed)
        objective, alpha = parse_objective(self.objective), self.alpha if task.labels else 0.0
        lesson = Heads(reader, taught, examined, task, ctx.device, objective, alpha, self.body)
        before = [op.name for op in plain if op.layer and list(op.layer.parameters())]
        result = self._train(lesson, graph, before, ctx, seed)
        held = lesson.held(reader.module)
        reader.module.to("cpu")
        ctx.record("training", asdict(result) | {"metric": held.metric.name, "better": "higher"})
        if self.body:
            for name in before:
                layer = graph[name].layer
                assert layer is not None
                graph.set_layer(name, layer)
        times = milliseconds(plain, graph, [*names, final], ctx) if ctx.target.batches else None
        curve = Curve.of(held, costs_of(plain, graph, [*names, final], ctx), times)
        self._leave(graph, places, names, curve, result, ctx)

    def coverage(self, graph: Graph, ctx: Context) -> Mapping[str, Verdict]:
        """Values that samples leave at; the heads are not there yet."""
        places = {place.name: place for place in choose_places(graph, ctx, _parts(self.at))}
        kept = Verdict.idle("trained along" if self.body else "stays as it is")
        return {
            op.name: Verdict.does(f"an exit at {places[op.name]}") if op.name in places else kept
            for op in graph
        }

    def _leave(  # noqa: PLR0913  (what was trained, and what came of it)
        self,
        graph: Graph,
        places: Sequence[Place],
        names: Sequence[str],
        curve: Curve,
        result: TrainingResult,
        ctx: Context,
    ) -> None:
        """Let samples leave at the threshold; without one the heads go again."""
        output, late = task_of(ctx).output, task_of(ctx).value_in(graph)
        point = (
            curve.choose(self.max_drop) if self.threshold == "auto" else curve.at(self.threshold)
        )
        ctx.record("exits", curve.record([place.name for place in places], point))
        for place, (score, count) in zip(places, curve.each(), strict=True):
            ctx.note(place.name, f"exit at {place}: alone {score} on {count} held-out samples")
        if result.best_epoch == 0:
            ctx.note(output, f"no epoch of {self.epochs} was better than the heads' start")
        if point is None:
            ctx.note(output, f"no exits: {self._no_threshold(curve)}")
            erase_unread(graph)
            return
        for name in reversed(names):
            late = choose_early(graph, name, late, point.threshold)
        retype(graph)
        for text in curve.told(point):
            ctx.note(output, text)

    def _no_threshold(self, curve: Curve) -> str:
        """Why none was found, in words."""
        if curve.told_apart <= self.max_drop:
            return f"at any threshold the score loses over {self.max_drop:g}"
        vouch = f"{curve.held.samples} held-out samples vouch for no loss below"
        hint = f"max_drop={self.max_drop:g} wants more of them (holdout=), or a threshold= of yours"
        return f"{vouch} {curve.told_apart:.3f}: {hint}"

    def _classes(self, graph: Graph, task: SettledTask) -> int:
        """How many classes a head chooses from."""
        shape, judged = graph.type_of(task.value_in(graph)).shape, task.judged
        fits = judged.learned == "class_scores" and len(shape) == 2 and judged.value_dim in (1, -1)
        if not fits or not isinstance(shape[-1], int) or len(graph.output_names) > 1:
            got = f"{judged.learned.replace('_', ' ')} of {len(shape)} dimensions"
            raise CompresscError(
                "CC301",
                "exits are for one output of class scores, a row for each sample",
                got=f"{got}, {len(graph.output_names)} outputs",
                where=f"output '{judged.name}'",
            )
        return shape[-1]

    def _train(
        self, lesson: Heads, graph: Graph, before: Sequence[str], ctx: Context, seed: int
    ) -> TrainingResult:
        """Train the heads, and the body where that is wanted."""
        samples = len(lesson.taught)
        size = batch_size(samples, self.epochs) if self.batch_size == "auto" else self.batch_size
        module = lesson.reader.module
        precision, _ = precision_for(module, lesson.taught.take(1).to(ctx.device).inputs)
        recipe = Recipe(
            epochs=self.epochs,
            learning_rate=None if self.lr == "auto" else self.lr,
            seed=seed,
            dropout=False,
            batch_statistics=self.body,
            precision=precision,
        )
        told = Told(ctx, lesson.title, size, name=self.name)
        kept = Checkpoints.of(ctx.store, "training")
        still = [] if self.body else _parameters(graph, before)
        flags = [parameter.requires_grad for parameter in still]
        for parameter in still:
            parameter.requires_grad_(False)
        try:
            what = lesson.lesson(size, {id(p) for p in still})
            return train(module, what, recipe, hooks=[told], checkpoints=kept)
        finally:
            for parameter, flag in zip(still, flags, strict=True):
                parameter.requires_grad_(flag)


def _parts(at: float | str) -> list[float | str]:
    """Shares and names."""
    return [_part(text.strip()) for text in str(at).split(",") if text.strip()]


def _part(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text.removeprefix("%")  # %1 is an op of that name


def _parameters(graph: Graph, names: Sequence[str]) -> list[nn.Parameter]:
    layers = (graph[name].layer for name in names)
    return [p for layer in layers if layer is not None for p in layer.parameters()]
