"""Teachers that know some of the classes only: `teachers="all.pt,some.pt@3+5+8"`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compressc.distillation import Answering, Answers
from compressc.errors import CompresscError
from compressc.ir import Graph
from compressc.pipeline import Context
from compressc.tasks import Response, task_of
from compressc.training import Drawn

_NAMED = re.compile(r"(?P<file>.*?)(@(?P<classes>\d+(\+\d+)*))?")


def split(name: str) -> tuple[str, tuple[int, ...]]:
    """The file of a teacher and the classes that it knows, in the order of its scores; none: all.

    Raises:
        ValueError: for a class that is there twice, or one alone: there is nothing to tell.
    """
    match = _NAMED.fullmatch(name)
    assert match is not None  # anything is a file
    classes = tuple(map(int, match["classes"].split("+"))) if match["classes"] else ()
    if len(set(classes)) < len(classes) or len(classes) == 1:
        raise ValueError(f"a specialist tells two classes apart or more: some.pt@3+5, not {name!r}")
    return match["file"], classes


def place(graph: Graph, classes: Sequence[int], ctx: Context, name: str) -> tuple[int, int]:
    """The output and dimension in which a specialist differs.

    Raises:
        CompresscError: CC301 for an output that is no class scores, CC208 where it has other scores
            than one for each class, and perhaps one more for none of them, or the run's model does
            not know a class.
    """
    judged = task_of(ctx).judged
    if judged.learned != "class_scores" or judged.value_dim is None:
        got = judged.learned.replace("_", " ")
        raise CompresscError("CC301", "specialists know some of the classes", got=got, where=name)
    if judged.index >= len(graph.output_names):
        wanted = "a specialist has the outputs of the run's model"
        raise CompresscError("CC208", wanted, got=f"{len(graph.output_names)}", where=name)
    theirs, ours = (
        one.type_of(judged.value_in(one)).shape[judged.value_dim] for one in (graph, ctx.teacher)
    )
    if theirs not in (len(classes), len(classes) + 1):
        wanted = f"a specialist of {len(classes)} classes has a score for each, and perhaps one "
        wanted += "more for none of them"
        raise CompresscError("CC208", wanted, got=f"{theirs} scores", where=name)
    if isinstance(ours, int) and max(classes) >= ours:
        wanted = f"a specialist knows classes of the run's model, 0 to {ours - 1}"
        raise CompresscError("CC208", wanted, got=str(max(classes)), where=name)
    return judged.index, judged.value_dim


@dataclass(frozen=True)
class Specialist:
    """A teacher of some classes that answers for all: others say how likely its classes are.

    What it says of none of them is left out; see `lifted`.

    Attributes:
        teacher: answers with a score for each of `classes`.
        classes: that it knows.
        general: teachers of all classes.
        judged: the output that it is about.
    """

    teacher: Answering
    classes: tuple[int, ...]
    general: Sequence[Answering]
    judged: Response

    def answers(self, batch: Drawn) -> Answers:
        """See `Answering`."""
        known = self.teacher.answers(batch)
        others = [member.answers(batch) for member in self.general]
        dim = self.judged.value_dim
        assert dim is not None  # see `place`
        whole = torch.stack([one.learned[0].movedim(dim, -1) for one in others]).mean(0)
        scores = lifted(whole, known.learned[0].movedim(dim, -1), self.classes)
        return replace(others[0], learned=(scores.movedim(-1, dim), *others[0].learned[1:]))

    def close(self) -> None:
        """See `Answering`; the others are closed where they are members."""
        self.teacher.close()


def lifted(general: Tensor, special: Tensor, classes: Sequence[int]) -> Tensor:
    """Log-probabilities of all classes by a specialist of some: `[..., c]`.

    p(k) = p_general(S) p_special(k | S) for its classes S, p_general(k) for all others: among its
    classes it decides, whether it is one of them others do (after Hinton, Vinyals and Dean 2015,
    section 5, whose specialists have one more class for all others).

    Args:
        general: scores of all classes `[..., c]`.
        special: scores of `classes`, `[..., k]`; more of them are not looked at.
        classes: S.
    """
    logs = general.float().log_softmax(-1)
    index = torch.tensor(classes, device=logs.device)
    mass = logs.index_select(-1, index).logsumexp(-1, keepdim=True)
    inside = special.float()[..., : len(classes)].log_softmax(-1)
    return logs.index_copy(-1, index, mass + inside)
