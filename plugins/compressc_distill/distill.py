"""The `distill` pass: train the graph as it stands to answer as the teacher does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from compressc import processes
from compressc.analysis.coverage import Verdict
from compressc.distillation import (
    INNER,
    Answering,
    GivenAnswers,
    Loss,
    Reader,
    Reading,
    Teacher,
    Teaching,
    parse_objective,
    reader_of,
    suits,
    trial_of_statistics,
)
from compressc.errors import CompresscError
from compressc.ir import Graph
from compressc.pipeline import Batch, Context, Samples
from compressc.spec import Weighted, sum_text
from compressc.tasks import SettledTask, task_of
from compressc.training import (
    Checkpoints,
    Recipe,
    TrainingResult,
    batch_size,
    channels_last_for,
    epochs_of,
    precision_for,
    train,
)
from compressc_distill.answering import (
    in_words,
    keeping_of,
    open_answers,
    positions_in,
    shortened,
)
from compressc_distill.comparing import STRETCHES, Comparison
from compressc_distill.composing import task_taught
from compressc_distill.effort import choose, facts_of, say_choices
from compressc_distill.families import views
from compressc_distill.families.language import aligning, alphabets
from compressc_distill.families.language.on_policy import on_own_words
from compressc_distill.families.self_taught.generations import raise_generations
from compressc_distill.families.teachers import trust
from compressc_distill.families.teachers.members import Members, names_in
from compressc_distill.matching import Matched, match
from compressc_distill.options import DistillOptions
from compressc_distill.parts import split
from compressc_distill.reach import verdicts
from compressc_distill.telling import Told, kept_zeros, summary
from compressc_distill.weighing import weighed

#: Epochs of a run whose length is not given in epochs, to choose the size of a batch by.
_MANY = 1000


class Distill(DistillOptions):
    """Train the model as it stands to answer as the model the run started with.

    Loss = alpha * loss by labels + (1 - alpha) * objective, without labels the second term alone;
    plus, by `features`, the normalized squared error of inner values, paired with the teacher's
    through the lineage of the graph. The objective follows from what the model puts out: T^2 *
    KL(teacher/T || student/T) for class scores (Hinton, Vinyals and Dean 2015), the same number by
    number for independent scores, squared error over variance for values, cosine for embeddings.
    What is compared is the value before a final softmax, sigmoid or norm. Several outputs are all
    matched, each by its kind.

    A tenth of the training data is held out; the state that does best on it is kept, and that may
    be the one before training. The test data is not looked at.
    """

    name: ClassVar[str] = "distill"
    reads_target: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset({"data"})
    takes_synthetic: ClassVar[bool] = True
    after: ClassVar[Mapping[str, str]] = {
        "prune": "distillation recovers what pruning cuts",
        "lowrank": "distillation recovers what factorization loses",
    }

    def run(self, graph: Graph, ctx: Context) -> None:
        """Train the layers of the graph in place; see `_run`."""
        planned = self
        if self.effort is not None:
            timed, answered = bool(self.steps or self.budget), bool(self.answers_from)
            train = ctx.require_data(self.name).train
            facts = facts_of(graph, ctx, train, timed=timed, answered=answered)
            choices = choose(self.effort, facts, self._given_options)
            planned = self._with({choice.option: choice.value for choice in choices})
            say_choices(choices, sum_text(planned._composition.terms(task_of(ctx))), ctx)
        if self.generations > 1:
            raise_generations(graph, ctx, self.generations, self.fresh, planned._teach)
        else:
            planned._run(graph, ctx)

    def _teach(self, generation: int, graph: Graph, ctx: Context) -> None:
        """Train one of several generations; those behind the first are built as their teacher."""
        more: dict[str, object] = {"generations": 1, "fresh": False}
        self._with(more | ({"pairs": "depth"} if generation > 1 else {}))._run(graph, ctx)

    def _run(self, graph: Graph, ctx: Context) -> None:
        """Train the layers of the graph in place.

        Raises:
            CompresscError: CC105 without data, CC107 for an unknown objective, CC301 where data and
                model do not fit, CC502 where not even the start scores a finite number, CC506 where
                a term of the loss has no effect.
        """
        data, task = ctx.require_data(self.name), task_of(ctx)
        output = task.value_in(graph)
        if self.other_inputs:
            views.require_view(graph, self.other_inputs, ctx)
        trained = {op.name: op.layer for op in graph if op.layer and list(op.layer.parameters())}
        if not trained:
            ctx.note(output, "skipped: the graph has no parameters to train")
            return
        seed = ctx.seed + self.seed
        start = graph.copy() if self.compare_scratch else None
        with ExitStack() as opened:
            parts = split(data, self.holdout, self.augment, seed)
            teaching, exam = self._teachings(graph, ctx, parts, seed, opened)
            teaching = on_own_words(self, teaching, graph, ctx)
            result = self._train(teaching, exam, ctx, seed, "training")
            if start is not None:
                self._compare(start, teaching, exam, ctx, seed)
            for text in (*summary(result, exam), *teaching.loss.told()):
                ctx.note(output, text)
            if not self.tokenizers:  # it would be the model at its start
                trust.notice(exam, ctx)
        judged: dict[str, object] = {"metric": exam.metric.name, "better": exam.metric.better}
        judged["scores"] = [one.name for one in exam.judged]  # of `score`, behind the loss
        ctx.record("training", asdict(result) | judged)
        if result.best_epoch:
            for name, layer in trained.items():
                graph.set_layer(name, layer)

    def _compare(
        self, start: Graph, teaching: Teaching, exam: Teaching, ctx: Context, seed: int
    ) -> None:
        """Train a copy by the labels alone, and say which does better on the held-out samples."""
        task = task_of(ctx)
        loss = Loss((Weighted(1.0, parse_objective("ce")),))
        student = reader_of(start, task, [], ctx.device)
        alone, judge = (replace(t, student=student, loss=loss) for t in (teaching, exam))
        self._train(alone, judge, ctx, seed, "training without teacher")
        scores = [t.scores_by_parts(t.student.module, STRETCHES) for t in (exam, judge)]
        found = Comparison.of(exam.metric, *scores)
        ctx.note(task.value_in(start), str(found))
        ctx.record("without teacher", found.figures)

    def _train(
        self, teaching: Teaching, exam: Teaching, ctx: Context, seed: int, name: str
    ) -> TrainingResult:
        module, output = teaching.student.module, task_of(ctx).output
        samples = len(teaching.samples)
        epochs = epochs_of(samples) if self.epochs == "auto" else self.epochs
        size = batch_size(samples, _MANY if self.steps or self.budget else epochs)
        size = size if self.batch_size == "auto" else self.batch_size
        batches = teaching.batches(size, self.views)
        recipe = self._recipe(epochs, seed, ctx, module, teaching.probe())
        recipe = replace(recipe, batch_statistics=self._samples_suit(teaching, exam, ctx))
        loss = weighed(teaching, batches, seed, self.weights == "auto", partial(ctx.note, output))
        teaching, exam = replace(teaching, loss=loss), replace(exam, loss=loss)
        lesson = teaching.lesson(batches, exam.examine)
        if self.dot and not lesson.by_labels:
            ctx.note(output, f"no labels: dot makes one momentum of {0.9 + self.dot:g}")
        together = batches.batch_size * self.accumulate
        told = Told(ctx, exam.metric.title, together)
        kept = Checkpoints.of(ctx.store, name)
        try:
            result = train(module, lesson, recipe, hooks=[told], checkpoints=kept)
        finally:
            module.to("cpu")
        length = f"{result.epochs} epochs of {math.ceil(len(batches) / self.accumulate)} steps"
        if self.steps or self.budget:
            length = f"{result.steps} steps, {length}"
        chosen = ", 0.01 of a typical weight" if self.lr == "auto" else ""
        text = f"peak learning rate {result.rate:.2g}{chosen}; {length} with {together} samples"
        ctx.note(output, text)
        if self.budget:
            ctx.note(output, f"as many steps as fit into {self.budget}: not the same each time")
        return result

    def _recipe(
        self, epochs: int, seed: int, ctx: Context, module: nn.Module, inputs: Sequence[Tensor]
    ) -> Recipe:
        """How to train, as the options have it and the machine."""
        precision, why = self.precision, ""
        if precision == "auto":
            precision, why = precision_for(module, inputs)
        if why:
            ctx.note(task_of(ctx).output, f"trained in float32; bfloat16: {why}")
        elif precision == "bfloat16":
            ctx.note(task_of(ctx).output, "trained in bfloat16, with float32 weights and losses")
        for text in kept_zeros(module) if self.zeros == "keep" else ():
            ctx.note(task_of(ctx).output, text)
        if self.shard and processes.world() == 1:
            ctx.note(task_of(ctx).output, "shard: one process holds all; torchrun starts several")
        rows, why = self.channels_last, ""
        if rows == "auto":
            rows, why = channels_last_for(module, inputs)
        if why:
            ctx.note(task_of(ctx).output, f"images lie plane by plane: {why}")
        return Recipe(
            epochs=epochs,
            learning_rate=None if self.lr == "auto" else self.lr,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            clip=self.clip,
            seed=seed,
            dropout=self.dropout,
            steps=self.steps,
            budget=self._seconds,
            optimizer=self.optimizer,
            accumulate=self.accumulate,
            ema=self.ema,
            channels_last=rows,
            precision=precision,
            shard=self.shard,
            dot=self.dot,
            keep_zeros=self.zeros == "keep",
        )

    def _samples_suit(self, teaching: Teaching, exam: Teaching, ctx: Context) -> bool:
        """Whether batch norms may work by the statistics of these samples."""
        trial = trial_of_statistics(teaching, exam)
        if trial is None or suits(trial):
            return True
        loss = f"loss {trial.before:.4f}, with those of the training samples {trial.after:.4f}"
        ctx.note(task_of(ctx).output, f"batch norms keep the statistics they have: {loss}")
        return False

    def _teachings(
        self,
        graph: Graph,
        ctx: Context,
        splits: tuple[Samples, Samples],
        seed: int,
        opened: ExitStack,
    ) -> tuple[Teaching, Teaching]:
        """What is taught, and what is examined; the answers are kept until `opened` ends."""
        task, matched = task_taught(ctx), self._told(graph, ctx)
        if self.trust is not None:
            trust.require_fit(self.trust, task)
        loss, pairs = self._loss(graph, ctx, matched), matched.values
        teacher, student = (
            reader_of(g, task, points, ctx.device, attention, vector)
            for g, (points, attention, vector) in (
                (ctx.teacher_to_move(), matched.of_teacher),
                (graph, matched.of_student),
            )
        )
        found: list[Teaching] = []
        members, foreign = self._members(ctx), self._foreign(ctx)
        given = open_answers(ctx, self.answers_from, self.views, seed)
        classes = _width(teacher, task, splits[1].take(1).to(ctx.device))
        short = shortened(loss, classes, self.answers_top, given, self.answers_from)
        keeping = replace(keeping_of(self, ctx, matched, seed), short=short)
        for part, plain in zip(splits, (False, True), strict=True):
            answers: Answering
            positions = None if given is None else positions_in(part, ctx, plain)
            if given is not None and positions is not None:
                answers = GivenAnswers(given, positions, ctx.device, task.judged)
            else:
                answers = Teacher(
                    teacher, pairs, part, ctx.device, keeping, plain=plain, judged=task.judged
                )
            if foreign is not None:
                answers = foreign.aligned(answers, part, ctx, told=not plain)
            if members is not None:
                inner = answers if matched else None
                answers = members.several(ctx, part, keeping, inner, plain=plain)
            opened.callback(answers.close)
            heads = len(matched.heads)
            found.append(Teaching(part, ctx.device, answers, student, task, loss, heads))
        self._say(graph, ctx, loss, matched)
        if members is not None:
            members.settle(found[0], found[1], seed)
            members.tell(ctx, found[1])
        first = replace(found[1].first_seen(), samples=len(splits[0]))  # what is trained with
        if short is not None:
            ctx.note(task.output, in_words(short, first))
        own = loss.fit(first, seed)
        if self.trust is not None:
            own = replace(own, trust=trust.WAYS[self.trust])
            trust.tell(self.trust, own, found[1], ctx)
        for index, text in loss.skipped(first):
            ctx.note(pairs[index].student, text)
        return replace(found[0], loss=own), replace(found[1], loss=own)

    def _members(self, ctx: Context) -> Members | None:
        """The teachers that were named, where there are any."""
        names = names_in("" if self.tokenizers else self.teachers)
        return Members.read(names, self.combine, ctx) if names else None

    def _foreign(self, ctx: Context) -> aligning.Foreign | None:
        """The teacher of another tokenizer, where there is one."""
        files = alphabets.names_in(self.tokenizers)
        return aligning.Foreign.read(self.teachers, files, ctx) if files else None

    def _loss(self, graph: Graph, ctx: Context, matched: Matched) -> Loss:
        """What is minimized; a term of the labels is left out where there are none, with a note.

        Raises:
            CompresscError: CC105 where nothing is left; CC506 for a term of the written loss that
                reads what the model does not have.
        """
        task, options = task_taught(ctx), self._composition
        terms, lost = [], {}
        for term in options.terms(task):
            missing = matched.missing(term.of.reads)
            if missing:
                lost[term.of.name] = missing
            elif term.of.needs_labels and not task.labels:
                lost[term.of.name] = "labels"
            else:
                terms.append(term)
        if not terms:
            wanted = f"the loss {self.loss} needs {' and '.join(sorted(set(lost.values())))}"
            raise CompresscError("CC105", wanted, where=self.name)
        if self.loss != "auto":  # what the others say is said without them, too
            for name, what in lost.items():
                if what != "labels":
                    raise CompresscError(
                        "CC506",
                        f"objective '{name}' reads {what}, and there are none",
                        where=f"the loss {self.loss}",
                        hint="leave it out; `compressc objectives` says what each reads",
                    )
                ctx.note(task.value_in(graph), f"{name} is left out: there are no {what}")
        others = tuple((r, options.of_output(r)) for r in task.learned[1:])
        matched_all = any("heads" in term.of.reads for term in terms)
        return Loss(tuple(terms), () if matched_all else others, together=not self.dot)

    def coverage(self, graph: Graph, ctx: Context) -> Mapping[str, Verdict]:
        """By what a gradient gets to. Whether an epoch beats the start is not foretold."""
        return self._verdicts(graph, ctx, self._matched(graph, ctx))

    def _verdicts(self, graph: Graph, ctx: Context, matched: Matched) -> dict[str, Verdict]:
        values = [*_values(graph, task_of(ctx)), *matched.queried]
        return verdicts(graph, values, {pair.student: pair for pair in matched.values})

    def _matched(self, graph: Graph, ctx: Context) -> Matched:
        """The inner values that terms read."""
        if self.answers_from:
            return Matched()
        reads = self._reads(task_of(ctx))
        return match(graph, ctx, reads, self.feature_points, self.pairs)

    def _told(self, graph: Graph, ctx: Context) -> Matched:
        """The same, with notes."""
        matched = self._matched(graph, ctx)
        matched.tell(ctx)
        reads, output = self._reads(task_of(ctx)), task_of(ctx).value_in(graph)
        if reads & INNER and self.answers_from:
            text = "features are off: answers that were written ahead are of outputs alone"
            ctx.note(output, text)
        elif "features" in reads and not matched.points:
            text = "no inner value still stands for one of the teacher: features are off"
            ctx.note(output, text)
        return matched

    def _reads(self, task: SettledTask) -> frozenset[Reading]:
        """What the terms read."""
        return frozenset().union(*(term.of.reads for term in self._composition.terms(task)))

    def _say(self, graph: Graph, ctx: Context, loss: Loss, matched: Matched) -> None:
        """Notes on what is learned, and on what is left out."""
        task = task_taught(ctx)
        judged = task.judged
        before = f", taken before its {judged.ending}" if judged.ending else ""
        others = [f"{response.name} by {objective.name}" for response, objective in loss.others]
        more = f"; also {', '.join(others)}" if others else ""
        text = sum_text(loss.terms) if self.loss != "auto" else self._composition.judged(task).name
        ctx.note(task.value_in(graph), f"learned by {text}{before}{more}")
        for response in task.others:
            if not response.trained:
                text = "not learned: nothing that the model has learned has a part in it"
                ctx.note(response.value_in(graph), text)
        if self.alpha and not task.labels:
            why = "; ".join(task.warnings) or "no labels"
            ctx.note(task.value_in(graph), f"{why}: distilled by the teacher's answers alone")
        for name, verdict in self._verdicts(graph, ctx, matched).items():
            if verdict.outcome == "cannot":
                ctx.note(name, f"skipped: {verdict.text}")


def _width(reader: Reader, task: SettledTask, sample: Batch) -> int:
    """Numbers in a row of the judged answers."""
    with torch.no_grad():
        value = reader(reader.module, sample.inputs).learned[0]
    return task.judged.rows(value).shape[-1]


def _values(graph: Graph, task: SettledTask) -> list[str]:
    return [response.value_in(graph) for response in task.learned]
