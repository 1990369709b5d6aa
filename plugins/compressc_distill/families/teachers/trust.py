"""How far the teacher is trusted, row by row: `trust=` of `distill`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import fmean
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from compressc.distillation import Loss, Seen, Teaching
from compressc.errors import CompresscError
from compressc.pipeline import Context
from compressc.tasks import SettledTask
from compressc_distill.comparing import STRETCHES, Comparison

Trust = Literal["labels", "entropy", "agreement"]


def by_labels(seen: Seen) -> Tensor:
    """What the teacher gives the right class over what it gives the one it chooses.

    1 where it is right or nobody knows, near 0 where it is sure of something wrong.
    """
    theirs = seen.teacher.rows.float().log_softmax(-1)
    if seen.labels is None:
        return torch.ones_like(theirs[:, 0])
    known = seen.labels >= 0
    right = theirs.gather(-1, seen.labels.clamp_min(0)[:, None]).squeeze(-1)
    return torch.where(known, (right - theirs.amax(-1)).exp(), 1.0)


def by_entropy(seen: Seen) -> Tensor:
    """1 - H / log c, H the entropy of the teacher's distribution over c classes."""
    theirs = seen.teacher.rows.float().log_softmax(-1)
    entropy = -(theirs.exp() * theirs).sum(-1)
    return (1 - entropy / math.log(theirs.shape[-1])).clamp(0, 1)


def by_agreement(seen: Seen) -> Tensor:
    """The share of the teachers that choose as all together do."""
    if seen.agreement is None:
        raise ValueError("agreement is of several teachers")
    return seen.agreement


WAYS: Mapping[Trust, Callable[[Seen], Tensor]] = MappingProxyType(
    {"labels": by_labels, "entropy": by_entropy, "agreement": by_agreement}
)


def require_fit(trust: Trust, task: SettledTask) -> None:
    """Refuse what trust cannot be told of, before any work.

    Raises:
        CompresscError: CC301 where answers are no class scores; CC105 for `labels` without any.
    """
    if task.judged.learned != "class_scores":
        got = task.judged.learned.replace("_", " ")
        where = f"output '{task.output}'"
        raise CompresscError(
            "CC301", f"trust={trust} is told of class scores", got=got, where=where
        )
    if trust == "labels" and not task.labels:
        hint = "trust=entropy needs none"
        raise CompresscError("CC105", "trust=labels needs labels", got="none", hint=hint)


def tell(trust: Trust, loss: Loss, exam: Teaching, ctx: Context) -> None:
    """How much the teacher's word counts on the held-out samples, and where that has no say.

    Args:
        trust: as it was given.
        loss: what is minimized.
        exam: the held-out samples.
        ctx: is told.
    """
    seen = exam.some_seen()
    mean, rows = float(WAYS[trust](seen).mean()), len(seen.teacher.rows)
    text = f"trust={trust}: the teacher's word counts {mean:.0%} in {rows} held-out rows"
    ctx.note(exam.task.output, text)
    own = copy.deepcopy(loss.own)  # to look is not to train
    for name, term in loss.named.items():
        if term.of.needs_labels:
            continue
        of = term.of(replace(seen, own=own.get(name))).of
        if of != "rows":
            text = f"{name} is not weighed by trust: its values are of {of}, not of rows"
            ctx.note(exam.task.output, text)


def notice(exam: Teaching, ctx: Context) -> None:
    """Say where the student does better than its teacher on the held-out samples: a weak one.

    Args:
        exam: the held-out samples, with the trained student.
        ctx: is told.
    """
    if not exam.task.labels:
        return
    module = exam.student.module
    student = exam.scores_by_parts(module.to(exam.device), STRETCHES)
    module.to("cpu")
    found = Comparison.of(exam.metric, student, exam.teacher_by_parts(STRETCHES))
    if not found.taught:
        return
    if found.student_above:
        ctx.note(exam.task.output, found.student_above)
    means = {"student": fmean(found.taught), "teacher": fmean(found.alone)}
    weak = {"weak": bool(found.student_above), "metric": exam.metric.name}
    ctx.record("beside the teacher", weak | means | {"spread": found.spread})
