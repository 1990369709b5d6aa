"""Teachers whose vocabulary is padded otherwise than the run's model: ids that both have count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from compressc.data.source import in_order
from compressc.distillation import Answering, Answers
from compressc.errors import CompresscError
from compressc.ir import Graph
from compressc.pipeline import Context
from compressc.tasks import SettledTask, task_of
from compressc.tasks.language_model import LanguageModel, find_ids
from compressc.training import Drawn, drawn

#: Tables of one tokenizer are padded to multiples of a power of two: they differ by less than this,
#: or by less than this share. More is another tokenizer.
ROWS, SHARE = 128, 0.05
#: What stands for a score that the teacher does not give.
NOTHING = -1e4
#: Samples whose ids are looked at together.
_LOOKED_AT = 256


def words_of(graph: Graph, task: SettledTask) -> int | None:
    """How many words a language model knows; None where it is none, or the number is open."""
    dim, index = task.judged.value_dim, task.judged.index
    if not isinstance(task.task, LanguageModel) or index >= len(graph.output_names):
        return None
    shape = graph.type_of(task.judged.value_in(graph)).shape
    if dim is None or dim not in (-1, len(shape) - 1):
        return None
    size = shape[dim]
    return size if isinstance(size, int) else graph.widths.get(str(size))


def place(graph: Graph, ctx: Context, name: str) -> tuple[int, int] | None:
    """The output and dimension in which a teacher of another vocabulary may differ, or None.

    Args:
        graph: the teacher.
        ctx: of the pass.
        name: the teacher's, for errors.

    Raises:
        CompresscError: CC208 where the vocabularies differ by more than padding, or the data have
            ids that the teacher does not know.
    """
    task = task_of(ctx)
    theirs, ours = words_of(graph, task), words_of(ctx.teacher, task)
    if theirs is None or ours is None or theirs == ours:
        return None
    if abs(theirs - ours) >= max(ROWS, SHARE * max(theirs, ours)):
        raise CompresscError(
            "CC208",
            f"a teacher has the tokenizer of the run's model, which knows {ours:,} words",
            got=f"{theirs:,} words, more than padding makes",
            where=name,
        )
    if theirs < ours:
        _require_known(theirs, ctx, name)
    return task.judged.index, -1


def fitted(teacher: Answering, graph: Graph, ctx: Context) -> Answering:
    """A teacher that answers in the vocabulary of the run's model, and says what it knows of it."""
    task = task_of(ctx)
    theirs, ours = words_of(graph, task), words_of(ctx.teacher, task)
    if theirs is None or ours is None or theirs == ours:
        return teacher
    return Padded(teacher, theirs, ours)


@dataclass(frozen=True)
class Padded:
    """A teacher of `theirs` words that answers to a model of `ours`: the first ones are the same.

    Its own last words, where it has more, are left out: they are nobody's, and what it gave them
    goes to the others in proportion. Words that it lacks get no score; see `Answers.known`.
    """

    teacher: Answering
    theirs: int
    ours: int

    def answers(self, batch: Drawn) -> Answers:
        """See `Answering`."""
        answers = self.teacher.answers(batch)
        scores, *others = answers.learned
        more = self.ours - self.theirs
        scores = F.pad(scores, (0, more), value=NOTHING) if more > 0 else scores[..., : self.ours]
        known = self.theirs if more > 0 else None
        return replace(answers, learned=(scores, *others), known=known)

    def close(self) -> None:
        """See `Answering`."""
        self.teacher.close()


def tell(names: Sequence[str], graphs: Sequence[Graph], ctx: Context) -> None:
    """A note on each teacher whose vocabulary is padded otherwise."""
    task = task_of(ctx)
    ours = words_of(ctx.teacher, task)
    for name, graph in zip(names, graphs, strict=True):
        theirs = words_of(graph, task)
        if theirs is not None and ours is not None and theirs != ours:
            text = f"{name} knows {theirs:,} words, the run's model {ours:,}"
            ctx.note(task.output, f"{text}: the first {min(theirs, ours):,} are compared")


def _require_known(words: int, ctx: Context, name: str) -> None:
    """See that the data have no word that a teacher does not know."""
    task, train = task_of(ctx), ctx.require_data("distill").train
    requests = ((positions, None) for positions in in_order(len(train), _LOOKED_AT))
    for batch in drawn(train, requests, torch.device("cpu")):
        ids = find_ids(dict(zip(task.inputs, batch.samples.inputs, strict=False)))
        highest = -1 if ids is None or not ids.numel() else int(ids.max())
        if highest >= words:
            wanted = f"a teacher knows the ids of the data: its own are 0 to {words - 1:,}"
            raise CompresscError("CC208", wanted, got=f"the id {highest:,}", where=name)
