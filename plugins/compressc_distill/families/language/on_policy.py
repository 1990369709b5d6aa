"""A student that is taught on text of its own: `on_policy=` of `distill`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from compressc.data import Split
from compressc.distillation import Answering, Answers, Seen, Several, Teacher, Teaching, look
from compressc.errors import CompresscError
from compressc.ir import Graph
from compressc.pipeline import Context
from compressc.tasks import NO_LABEL, task_of
from compressc.tasks.language_model import LanguageModel, next_ids
from compressc.training import Drawn
from compressc_distill.families.language.continuing import Page, lengths_of, require_causal, write
from compressc_distill.families.teachers.vocabularies import Padded
from compressc_distill.options import DistillOptions

#: Texts that are looked at before a run.
_FEW = 4


def on_own_words(
    options: DistillOptions, teaching: Teaching, graph: Graph, ctx: Context
) -> Teaching:
    """The same lesson, in which the student writes the text of some batches, where they say so.

    Args:
        options: of the pass.
        teaching: what is taught.
        graph: the student.
        ctx: of the pass.

    Raises:
        CompresscError: CC301 where the model continues no texts; CC204 for its inputs, CC105 where
            it does not look back only.
    """
    share, prompt = options.on_policy, options.on_policy_prompt
    if not share:
        return teaching
    task = task_of(ctx)
    if not isinstance(task.task, LanguageModel):
        raise CompresscError(
            "CC301",
            "on_policy is of a model that continues texts",
            got=f"the task {task.task.name}",
            where="distill",
            hint="--task language_model, where it is one",
        )
    page = Page.of(graph)
    few = teaching.samples.take(min(_FEW, len(teaching.samples))).to(ctx.device).inputs
    lengths_of(few[page.ids], task.valid(few))
    student = teaching.student
    require_causal(lambda x: student(student.module, x).learned[0], page, few[page.ids], graph.name)
    text = (
        f"the student writes the last {1 - prompt:.0%} of each text in {share:.0%} of the batches"
    )
    ctx.note(task.output, f"{text}, at temperature {options.on_policy_temperature:g}")
    plain = {field.name: getattr(teaching, field.name) for field in fields(Teaching)}
    return OnPolicy(
        **plain,
        page=page,
        asked=_asked(teaching.teacher),
        share=share,
        temperature=options.on_policy_temperature,
        prompt=prompt,
    )


@dataclass(frozen=True, kw_only=True)
class OnPolicy(Teaching):
    """A lesson in which the student writes the text of some batches, and the teacher marks it.

    Each batch is of its own words with the chance `share`, and else as the data have it; no
    gradient goes through what was drawn. Labels have no part in words that the student wrote.
    Source: Agarwal et al. 2024 (GKD), arXiv 2306.13649, algorithm 1.

    Attributes:
        page: where the models have their text.
        asked: the teacher, which is asked about new text.
        share: of the batches.
        temperature: that words are drawn at.
        prompt: share of each text that stands.
    """

    page: Page
    asked: Answering
    share: float
    temperature: float
    prompt: float

    def terms(self, module: nn.Module, batch: Drawn) -> dict[str, Tensor]:
        """As a plain lesson's; which kind a batch is follows from the generator of its place."""
        labels_alone = not self.loss.others and set(self.loss.named) <= self.loss.by_labels
        if labels_alone or float(torch.rand(())) >= self.share:
            return super().terms(module, batch)
        own = self.of_own_words(module, batch)
        return super().terms(module, batch) if own is None else self.loss.values(own)

    def of_own_words(self, module: nn.Module, batch: Drawn) -> Seen | None:
        """What is seen of texts that the student continued; None where none is long enough."""
        inputs = batch.samples.inputs
        ids, valid = inputs[self.page.ids], self.task.valid(inputs)
        lengths = lengths_of(ids, valid)
        known = (self.prompt * lengths).ceil().long().clamp_min(1)
        if not bool((known < lengths).any()):
            return None
        with torch.no_grad(), _resting(module):
            scores = self._scores(module)
            written = write(scores, self.page, (ids, valid), known, self.temperature)
        own = tuple(written if i == self.page.ids else x for i, x in enumerate(inputs))
        places = torch.arange(ids.shape[1], device=ids.device)
        wanted = next_ids(dict(zip(self.task.inputs, own, strict=False)))
        assert wanted is not None
        targets = wanted.masked_fill(places < known[:, None] - 1, NO_LABEL)
        return self._marked(
            module, replace(batch, view=None, samples=Split.of(own, None)), targets, valid
        )

    def _marked(
        self, module: nn.Module, batch: Drawn, targets: Tensor, valid: Tensor | None
    ) -> Seen:
        """What the teacher says of each word that was written."""
        inputs = batch.samples.inputs
        theirs, ours = self.asked.answers(batch), self.student(module, inputs)
        reads, at = self.loss.reads, batch.progress
        seen = look(self.task, ours, theirs, targets, reads, at, valid, self.heads)
        return replace(
            seen,
            labels=None,
            by_labels=None,
            positions=batch.positions,
            samples=len(self.samples),
        )

    def _scores(self, module: nn.Module) -> Callable[[Sequence[Tensor]], Tensor]:
        return lambda inputs: self.student(module, inputs).learned[0]


@dataclass(frozen=True)
class _Asked:
    """A teacher that is asked, whatever answers are kept."""

    teacher: Teacher

    def answers(self, batch: Drawn) -> Answers:
        """See `Answering`."""
        return self.teacher.ask(batch.samples.inputs)

    def close(self) -> None:
        """Nothing is kept."""


def _asked(answering: Answering) -> Answering:
    """Who answers to text that is in no data set."""
    if isinstance(answering, Teacher):
        return _Asked(answering)
    if isinstance(answering, Padded):
        return replace(answering, teacher=_asked(answering.teacher))
    assert isinstance(answering, Several)
    inner = None if answering.inner is None else _asked(answering.inner)
    return replace(answering, members=[_asked(x) for x in answering.members], inner=inner)


@contextmanager
def _resting(module: nn.Module) -> Iterator[None]:
    """Modules without dropout inside; afterwards as they were."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True
