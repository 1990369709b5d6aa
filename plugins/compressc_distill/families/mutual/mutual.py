"""The `mutual` pass: peers that learn together, and teach one another."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from compressc.analysis.coverage import Verdict
from compressc.distillation import (
    Loss,
    Objective,
    Reader,
    Teacher,
    Teaching,
    parse_objective,
    reader_of,
)
from compressc.errors import CompresscError
from compressc.ir import Graph
from compressc.pipeline import Context, Pass
from compressc.spec import Weighted
from compressc.tasks import SettledTask, task_of
from compressc.training import (
    Checkpoints,
    Recipe,
    TrainingResult,
    batch_size,
    precision_for,
    train,
)
from compressc_distill.families.mutual.peers import Group, Peers
from compressc_distill.matching import descends
from compressc_distill.parts import split
from compressc_distill.reach import verdicts
from compressc_distill.renewing import move, renew
from compressc_distill.telling import Told

#: The loss between peers, by what they answer.
LIKE = {"class_scores": "kd(T=1)", "independent_scores": "bernoulli"}
#: Of each weight's deviation, that peers begin apart by.
NOISE = 0.1


class Mutual(Pass):
    """Train the model as it stands together with peers of its form, each by what the others answer.

    Loss of each peer = loss by labels + weight * mean over the others of KL(other || peer); with
    `teacher=ensemble` it is KL(mean of all || peer). The teacher that the run started with has no
    part in it. All are trained in one run; the peer that does best on the held-out samples is
    kept. Sources: Zhang et al. 2018 (Deep mutual learning), arXiv 1706.00384, equations 6 to 8;
    Guo et al. 2020 (KDCL) for the ensemble.
    """

    name: ClassVar[str] = "mutual"
    reads_target: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset({"data", "labels"})
    after: ClassVar[Mapping[str, str]] = {
        "prune": "peers learn what pruning leaves",
        "lowrank": "peers learn what factorization leaves",
        "student": "peers are students",
        "sparsify": "peers keep its zeros",
    }
    before: ClassVar[Mapping[str, str]] = {
        "simplify": "training needs the batch norms and dropouts that simplify removes",
        "quant": "int8 weights cannot be trained",
    }

    peers: Annotated[int, Field(ge=2, le=32)] = 3
    """How many learn together, the model itself among them."""
    teacher: Literal["peers", "ensemble"] = "peers"
    """Who teaches a peer: each of the others, or the mean of all logits."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Of what peers teach, beside the labels."""
    objective: str = "auto"
    """The loss between peers, an objective of answers; `auto` is `kd(T=1)` for class scores and
    `bernoulli` for yes and no."""
    start: Literal["auto", "noise", "fresh"] = "auto"
    """How peers begin apart: with a tenth of `noise` on the model's weights, or with `fresh` ones;
    `auto` is noise where the model descends from the run's, whose weights are worth keeping."""
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 20
    """How often to go through the training data."""
    lr: Annotated[float, Field(gt=0, le=1)] | Literal["auto"] = "auto"
    """Peak learning rate of AdamW; `auto` is 0.01 of a typical weight."""
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Samples in a batch; `auto` as `distill` has it."""
    holdout: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    """Share of the training data that is held out to choose epoch and peer, where the data bring no
    validation part."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products and convolutions in steps; `auto` as `distill` has it."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Added to the seed of the run."""

    @field_validator("objective")
    @classmethod
    def _known(cls, text: str) -> str:
        """One that reads anything but answers is an error before any work starts."""
        objective = parse_objective(LIKE["class_scores"] if text == "auto" else text)
        if not objective.reads <= {"rows"} or objective.needs_labels:
            raise ValueError(f"peers compare answers alone: {text} reads more")
        return text

    def uses(self) -> tuple[Any, ...]:
        """The objectives: another one of the same name makes another result."""
        own = LIKE.values() if self.objective == "auto" else [self.objective]
        return tuple(type(parse_objective(text)) for text in (*own, "ce"))

    def run(self, graph: Graph, ctx: Context) -> None:
        """Train the layers of the graph in place.

        Raises:
            CompresscError: CC105 where the labels cannot be learned from; CC301 where the objective
                does not fit the output; CC502 where no score is finite.
        """
        data, task, seed = ctx.require_data(self.name), task_of(ctx), ctx.seed + self.seed
        output = task.value_in(graph)
        trained = [op.name for op in graph if op.layer and list(op.layer.parameters())]
        if not trained:
            ctx.note(output, "skipped: the graph has no parameters to train")
            return
        if not task.labels:
            why = "; ".join(task.warnings) or "none that can be learned from"
            raise CompresscError("CC105", "peers learn by labels", got=why, where=self.name)
        graphs = [graph, *(self._apart(graph, number, ctx) for number in range(1, self.peers))]
        readers = [reader_of(one, task, [], ctx.device) for one in graphs]
        with ExitStack() as opened:
            parts = split(data, self.holdout, "", seed)
            taught, exam = (self._teaching(part, readers[0], ctx, opened) for part in parts)
            ensemble = self.teacher == "ensemble"
            objective = self.between(task)
            objective.check(exam.first_seen())
            group = Group(objective, ensemble, Peers(readers), readers, taught, exam)
            result = self._train(group, ctx, seed)
            best = group.best()
            self._tell(group, best, result, ctx)
        if result.best_epoch:
            for name in trained:
                layer = graphs[best][name].layer
                assert layer is not None
                graph.set_layer(name, layer)

    def coverage(self, graph: Graph, ctx: Context) -> Mapping[str, Verdict]:
        """By what a gradient gets to. Which peer is kept is not foretold."""
        return verdicts(graph, [task_of(ctx).value_in(graph)], {})

    def between(self, task: SettledTask) -> Objective:
        """The loss between peers.

        Raises:
            CompresscError: CC301 for an output that it can make nothing of.
        """
        judged = task.judged
        if judged.learned not in LIKE:
            raise CompresscError(
                "CC301",
                "peers teach one another class scores, or yes and no",
                got=judged.learned.replace("_", " "),
                where=f"output '{judged.name}'",
                hint="distill learns any output",
            )
        given = LIKE[judged.learned] if self.objective == "auto" else self.objective
        return parse_objective(given)

    def _apart(self, graph: Graph, number: int, ctx: Context) -> Graph:
        """A peer, which begins elsewhere than all others."""
        peer, seed = graph.copy(), ctx.seed + self.seed + number
        noise = self.start == "noise" or (self.start == "auto" and descends(graph, ctx.teacher))
        if noise:
            move(peer, NOISE, seed)
        else:
            renew(peer, ctx, seed)
        if number == 1:
            how = (
                f"with noise of {NOISE:.0%} on the model's weights" if noise else "with new weights"
            )
            ctx.note(task_of(ctx).output, f"{self.peers} peers, the others begin {how}")
        return peer

    def _teaching(self, part: Any, reader: Reader, ctx: Context, opened: ExitStack) -> Teaching:
        """Samples with the loss by labels; the run's teacher is what agreement is measured with."""
        task = task_of(ctx)
        asked = Teacher(
            reader_of(ctx.teacher_to_move(), task, [], ctx.device), [], part, ctx.device
        )
        opened.callback(asked.close)
        loss = Loss((Weighted(1.0, parse_objective("ce")),))
        return Teaching(part, ctx.device, asked, reader, task, loss)

    def _train(self, group: Group, ctx: Context, seed: int) -> TrainingResult:
        samples = len(group.taught.samples)
        size = batch_size(samples, self.epochs) if self.batch_size == "auto" else self.batch_size
        precision = self.precision
        if precision == "auto":
            precision, _ = precision_for(group.module, group.taught.probe())
        recipe = Recipe(
            epochs=self.epochs,
            learning_rate=None if self.lr == "auto" else self.lr,
            seed=seed,
            dropout=False,
            precision=precision,
        )
        lesson = group.taught.lesson(group.taught.batches(size), group.validate)
        lesson = replace(
            lesson, terms=group.terms, weights={"peers": self.weight}, silent=frozenset()
        )
        told = Told(ctx, group.exam.metric.title, size, name=self.name)
        kept = Checkpoints.of(ctx.store, "training")
        try:
            return train(group.module, lesson, recipe, hooks=[told], checkpoints=kept)
        finally:
            group.module.to(ctx.device)

    def _tell(self, group: Group, best: int, result: TrainingResult, ctx: Context) -> None:
        """What came of it, peer by peer and together."""
        task, title = task_of(ctx), group.exam.metric.title
        each = [score for _, score in group.scores()]
        together = group.together()
        group.module.to("cpu")
        scores = ", ".join(f"{score:.4f}" for score in each)
        text = f"kept peer {best + 1} of {self.peers}, epoch {result.best_epoch} of {self.epochs}"
        if not result.best_epoch:
            text = f"no epoch of {self.epochs} was better than the start: weights left as they were"
        text += f": {title} {scores} on {len(group.exam.samples)} held-out samples"
        ctx.note(task.output, f"{text}; all together {together:.4f}")
        judged = {"metric": group.exam.metric.name, "scores": each, "together": together}
        ctx.record("training", asdict(result) | {"metric": group.exam.metric.name})
        ctx.record("peers", judged | {"kept": best + 1})
