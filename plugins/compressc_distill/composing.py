"""The loss that the options of a distillation stand for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from compressc.distillation import BY_OUTPUT, Objective, objective_of, parse_loss, parse_objective
from compressc.pipeline import Context
from compressc.spec import Weighted, make
from compressc.tasks import Response, SettledTask, task_of
from compressc.tasks.language_model import LanguageModel
from compressc_distill.objectives.temperature import WORDS

#: The options that `loss` stands in place of.
PARTS = frozenset({"alpha", "objective", "temperature", "features"})


@dataclass(frozen=True)
class Composition:
    """What the options of these names say of the loss; see `Distill`."""

    loss: str
    alpha: float
    objective: str
    temperature: float | Literal["auto"]
    features: float

    def terms(self, task: SettledTask) -> tuple[Weighted[Objective], ...]:
        """What is minimized of the judged output and of inner values, the labels' part first.

        Without labels `alpha` counts as 0.
        """
        if self.loss != "auto":
            terms = parse_loss(self.loss)
            return tuple(Weighted(term.weight, _for_words(term.of, task)) for term in terms)
        return tuple(self._parts(task))

    def _parts(self, task: SettledTask) -> Iterator[Weighted[Objective]]:
        """The sum that the other options are short for."""
        alpha = self.alpha if task.labels else 0.0
        if alpha > 0:
            yield Weighted(alpha, parse_objective("ce"))
        if alpha < 1:
            yield Weighted(1 - alpha, self.judged(task))
        if self.features > 0:
            yield Weighted(self.features, parse_objective("hint"))

    def judged(self, task: SettledTask) -> Objective:
        """The objective of the judged output."""
        if self.objective == "auto":
            return _for_words(self.of_output(task.judged), task)
        return _for_words(self._tempered(parse_objective(self.objective)), task)

    def of_output(self, response: Response) -> Objective:
        """The objective that goes with what an output is."""
        return self._tempered(parse_objective(objective_of(response)))

    def _tempered(self, plain: Objective) -> Objective:
        """At the temperature of the options, where it has one and was given none."""
        has_one = "T" in type(plain).model_fields and "T" not in plain.model_fields_set
        if not has_one or self.temperature == "auto":
            return plain
        return _at(self.temperature, plain)

    @property
    def classes(self) -> tuple[type[Objective], ...]:
        """Of all objectives that may be used, whatever the outputs turn out to be."""
        found = [parse_objective(name) for name in (*BY_OUTPUT.values(), "ce", "hint")]
        if self.objective != "auto":
            found.append(parse_objective(self.objective))
        if self.loss != "auto":
            found += [term.of for term in parse_loss(self.loss)]
        return tuple({objective.name: type(objective) for objective in found}.values())


def _for_words(plain: Objective, task: SettledTask) -> Objective:
    """Of the next words of a text `auto` is the temperature 1, however few words there are.

    Several may follow, and how likely each of them is is what is learned; of things that exclude
    each other a sure teacher's tail has to be raised before it says anything.
    """
    if isinstance(task.task, LanguageModel) and getattr(plain, "T", None) == "auto":
        return _at(WORDS, plain)
    return plain


def _at(temperature: float, plain: Objective) -> Objective:
    given = {name: getattr(plain, name) for name in plain.model_fields_set}
    return make(type(plain), {**given, "T": temperature})


def task_taught(ctx: Context) -> SettledTask:
    """The task as the training part has it: labels of other parts alone can be judged by."""
    task, sample = task_of(ctx), ctx.require_data("distill").train.take(1)
    labelled = task.targets(sample.inputs, sample.labels) is not None
    return task if labelled else replace(task, labels=False)
