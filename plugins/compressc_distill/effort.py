"""What `effort` chooses: the options that a user left open, each with its reason."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from compressc.analysis import cost_formula
from compressc.events import Event
from compressc.ir import Graph, TensorType
from compressc.pipeline import Context, Samples
from compressc.tasks import SettledTask, task_of
from compressc.tasks.language_model import LanguageModel
from compressc_distill.objectives.temperature import WORDS, number_of

Effort = Literal["quick", "normal", "thorough"]

#: Steps of the optimizer for a student that lost half of its weights.
STEPS = {"quick": 400, "normal": 1600, "thorough": 6400}
#: Share of the weights that was cut, and what that makes of the steps.
CUTS = ((0.1, 0.5), (0.6, 1.0), (1.0, 2.0))
#: Samples of the training part, and how many go into a step.
BATCHES = ((2_000, 16), (20_000, 32), (math.inf, 64))
#: Training parts below this are worth making more of.
FEW = 20_000
#: An image is moved by this share of its side.
MOVED = 1 / 14


@dataclass(frozen=True)
class Choice:
    """One option, and why it has that value."""

    option: str
    value: int | float | str
    reason: str

    def __str__(self) -> str:
        """`epochs=25: 1,600 steps (normal) ...`."""
        return f"{self.option}={self.value}: {self.reason}"


@dataclass(frozen=True)
class Facts:
    """What choices depend on.

    Attributes:
        samples: of the training part.
        cut: share of the teacher's weights that is gone, 0 to 1.
        labelled: whether labels can be learned from.
        classes: of the judged output, 0 where it has none.
        side: the smaller side of the images, 0 where the inputs are no images or are augmented, or
            where the answers are given: they are those to the samples as they are.
        timed: whether the length of the training is given otherwise.
        words: whether the classes are the next words of a text.
    """

    samples: int
    cut: float
    labelled: bool
    classes: int = 0
    side: int = 0
    timed: bool = False
    words: bool = False


def facts_of(graph: Graph, ctx: Context, train: Samples, *, timed: bool, answered: bool) -> Facts:
    """Of a student that is about to be trained.

    Args:
        graph: the student.
        ctx: has the teacher and the task.
        train: what it learns from.
        timed: whether the length of the training is given otherwise.
        answered: whether the teacher's answers are given.
    """
    ours, theirs = (max(cost_formula(g).parameters, 1) for g in (graph, ctx.teacher))
    return Facts(
        samples=len(train),
        cut=min(max(1 - ours / theirs, 0.0), 1.0),
        labelled=task_of(ctx).labels,
        classes=_classes(graph, task_of(ctx)),
        side=0 if train.has_views or answered else _side(graph),
        timed=timed,
        words=isinstance(task_of(ctx).task, LanguageModel),
    )


def choose(effort: Effort, facts: Facts, given: Collection[str] = ()) -> list[Choice]:
    """A value for every option that is not given.

    Args:
        effort: how much time the result is worth.
        facts: of model, data and task.
        given: options that the user named; they stay as they are.
    """
    size = next(size for most, size in BATCHES if facts.samples < most)
    factor = next(factor for most, factor in CUTS if facts.cut <= most)
    steps = round(STEPS[effort] * factor)
    epochs = max(1, math.ceil(steps * size / max(facts.samples, 1)))
    found = [Choice("batch_size", size, f"{facts.samples:,} training samples")]
    if not facts.timed:
        why = f"{steps:,} steps ({effort}) for a student that lost {facts.cut:.0%} of its weights"
        found.append(Choice("epochs", epochs, why))
    if facts.labelled:
        found.append(Choice("alpha", 0.3, "labels correct what the teacher has wrong"))
    else:
        found.append(Choice("alpha", 0.0, "no labels: the teacher's answers alone"))
    if facts.classes:
        found.append(_temperature(facts))
    found.append(Choice("features", 1.0, "inner values that still stand for the teacher's"))
    if effort == "thorough" and 0 < facts.samples < FEW and facts.side:
        pixels = max(1, round(facts.side * MOVED))
        why = f"{facts.samples:,} images are few; the teacher answers to each as it is moved"
        found.append(Choice("augment", f"shift(pixels={pixels})", why))
    return [choice for choice in found if choice.option not in given]


def _temperature(facts: Facts) -> Choice:
    if facts.words:
        return Choice("temperature", WORDS, "how likely each next word is is what is learned")
    temperature = number_of("auto", facts.classes)
    return Choice("temperature", temperature, f"{facts.classes:,} classes")


def say_choices(choices: Sequence[Choice], loss: str, ctx: Context) -> None:
    """Tell what is about to be done and why, and put it on record."""
    task = task_of(ctx)
    learned = task.judged.learned.replace("_", " ")
    told = [*choices, Choice("loss", loss, f"what the model puts out: {learned}")]
    facts = [asdict(choice) for choice in told]
    ctx.tell(Event("chosen", {"pass": "distill", "choices": facts}))
    ctx.record("chosen", facts)
    for choice in told:
        ctx.note(task.output, str(choice))


def _classes(graph: Graph, task: SettledTask) -> int:
    """Of the judged output."""
    judged = task.judged
    if judged.learned != "class_scores" or judged.value_dim is None:
        return 0
    size = graph.type_of(judged.value_in(graph)).shape[judged.value_dim]
    return size if isinstance(size, int) else graph.widths.get(str(size), 0)


def _side(graph: Graph) -> int:
    """The smaller side of the images, where they are the only input: f[b,c,h,w]."""
    if len(graph.inputs) != 1:
        return 0
    type_ = graph.inputs[0].type
    if not isinstance(type_, TensorType) or not type_.dtype.is_floating_point:
        return 0
    sides = type_.shape[-2:]
    if len(type_.shape) != 4 or not all(isinstance(side, int) for side in sides):
        return 0
    return min(int(side) for side in sides)
