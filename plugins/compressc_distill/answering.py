"""A teacher's answers as the options of a distillation have them: from where, and how short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compressc.data.source import Subset
from compressc.distillation import (
    Keeping,
    Loss,
    Objective,
    Seen,
    Shortened,
    open_given,
)
from compressc.distillation.answers import AnswerStore
from compressc.errors import CompresscError
from compressc.ir import graph_hash
from compressc.pipeline import Context, Samples
from compressc.pipeline.conditions import conditions
from compressc.tasks import task_of
from compressc_distill.matching import Matched
from compressc_distill.options import DistillOptions

#: Where all others have more than this, what is learned of the classes is little.
MUCH = 0.5


def keeping_of(options: DistillOptions, ctx: Context, matched: Matched, seed: int) -> Keeping:
    """How the teacher's answers are kept, and what they depend on."""

    def progress(done: int, total: int) -> None:
        ctx.progress("asking the teacher", done, total)

    def basis() -> dict[str, Any]:
        return {
            "teacher": graph_hash(ctx.teacher),
            "values": [r.value_in(ctx.teacher) for r in task_of(ctx).learned],
            **matched.basis(),
            "seed": seed,
            "conditions": conditions(ctx.device),
        }

    return Keeping(
        how=options.answers,
        dtype=getattr(torch, options.answers_dtype),
        views=options.views,
        folder=ctx.store.answers,
        most=ctx.store.most,
        basis=basis,
        say=ctx.store.say,
        progress=progress,
    )


def open_answers(ctx: Context, folder: str, views: int, seed: int) -> AnswerStore | None:
    """The answers that were written ahead into a folder; None where none is named.

    Raises:
        CompresscError: CC303 where they are of something else, or of other views.
    """
    if not folder:
        return None
    train = ctx.require_data("distill").train
    store = open_given(Path(folder), ctx.teacher, task_of(ctx), train, seed)
    if train.has_views and store.layout.views != views:
        raise CompresscError(
            "CC303",
            f"the answers are of {views} views of each sample, as distill(views=...) says",
            got=str(store.layout.views),
            where=folder,
        )
    return store


def positions_in(part: Samples, ctx: Context, plain: bool) -> Tensor | None:
    """Where the samples of a part are in the training part, in the views that were asked about."""
    train = ctx.require_data("distill").train
    if plain and train.has_views:
        return None
    if part is train:
        return torch.arange(len(train))
    if not isinstance(part, Subset):
        return None
    if part.whole is train:
        return part.positions
    if not isinstance(train, Subset) or part.whole is not train.whole:
        return None
    place = torch.full((len(train.whole),), -1)  # a part of a part is one of the whole
    place[train.positions] = torch.arange(len(train))
    return place[part.positions]


def shortened(
    loss: Loss, classes: int, count: int, given: AnswerStore | None, folder: str
) -> Shortened | None:
    """How the answers are kept short, as the option says or a folder of answers.

    Args:
        loss: what the answers are for.
        classes: numbers in a row of them.
        count: of the largest in each row; 0 for all.
        given: answers that were written ahead, in `folder`.

    Raises:
        CompresscError: CC301 for an objective that needs all answers, or for two temperatures;
            CC303 where the folder's are kept otherwise than is asked for.
    """
    about = None if given is None else given.layout.largest
    if given is not None and count and (about is None or about["count"] != count):
        got = "all of them" if about is None else f"{about['count']:.0f}"
        raise CompresscError(
            "CC303", f"the {count} largest answers are there", got=got, where=folder
        )
    count = count if about is None else int(about["count"])
    if not count:
        return None
    temperature = _temperature(loss, classes, count)
    if about is not None and temperature is not None and about["temperature"] != temperature:
        raise CompresscError(
            "CC303",
            f"the largest answers are those at temperature {temperature:g}, as the loss is",
            got=f"{about['temperature']:g}",
            where=folder,
            hint=f"compressc teacher --top {count} --temperature {temperature:g}",
        )
    at = about["temperature"] if about is not None else temperature
    return Shortened(count, 1.0 if at is None else at)


def in_words(short: Shortened, seen: Seen) -> str:
    """What is kept, and how much of it all others have.

    Args:
        short: how answers are kept.
        seen: of one sample.
    """
    text = f"the {short.count} largest answers of the teacher, and one for all others"
    text += f", at temperature {short.temperature:g}"
    if seen.teacher.largest is None or not len(seen.teacher.largest.tail):
        return text
    mass = float(seen.teacher.largest.tail.mean())
    text += f"; all others have {mass:.0%} of a sample"
    return text if mass <= MUCH else f"{text}: a lower temperature, or more answers, teach more"


def _temperature(loss: Loss, classes: int, count: int) -> float | None:
    """The one of all terms; None where none has any."""
    found: set[float] = set()
    for term in loss.terms:
        if not term.of.takes_largest(classes) and term.of.reads & {"rows", "vectors"}:
            raise _needs_all(term.of, count)
        at = term.of.kept_at(classes)
        found |= set() if at is None else {at}
        if len(found) > 1:
            wanted = "takes the largest answers at the temperature of the other terms"
            raise term.of.misfit(wanted, " and ".join(f"{t:g}" for t in sorted(found)))
    return next(iter(found), None)


def _needs_all(objective: Objective, count: int) -> CompresscError:
    wanted = "needs all of the teacher's answers"
    return objective.misfit(wanted, f"the {count} largest", hint="leave out answers_top")
