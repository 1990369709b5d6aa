"""Whether a model continues texts: it has ids among its inputs, and knows the next ones."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from compressc.data.checks import NO_LABEL
from compressc.tasks.fit import Skill, skill
from compressc.tasks.language_model import LanguageModel, find_ids, next_ids
from compressc.tasks.probe import Probe
from compressc.tasks.readings import Readings
from compressc.tasks.response import Response
from compressc.tasks.settled import SettledTask

#: Standard errors above chance from which on it is taken to predict the next token: nobody asked.
CERTAIN = 4.0


def settle_language_model(readings: Readings, probe: Probe) -> SettledTask | None:
    """The task of a language model; None where it is another's.

    Raises:
        CompresscError: CC301 where the user named it and the model or the labels are not of it.
    """
    named = isinstance(readings.task, LanguageModel)
    if readings.task is not None and not named:
        return None
    inputs = probe.inputs
    ids = find_ids(inputs)
    best = None if ids is None else _scores_of(readings, probe, ids)
    if ids is None or best is None:
        if named:
            got = "no input of ids [n, s]" if ids is None else "no scores [n, s, c] of these ids"
            raise readings.misfit(got)
        return None
    labels = probe.labels if probe.samples.has_labels else None
    shifted = labels is not None and _same(labels, ids)
    if labels is not None and not shifted:
        ahead = next_ids(inputs)
        if named and (labels.shape != ids.shape or labels.is_floating_point()):
            raise readings.misfit(f"labels {list(labels.shape)} for ids {list(ids.shape)}")
        if not named and (ahead is None or not _same(labels, ahead)):
            return None
        wanted: Tensor | None = labels
    else:
        wanted = next_ids(inputs, labels)
    assert wanted is not None
    (output,) = probe.outputs([best])
    how_well, here = (skill(best, output, x[: len(output)]) for x in (wanted, ids))
    asked = named or labels is not None
    if not asked and not _continues(how_well, here):
        return None
    return _settled(readings, best, how_well, shifted)


def _continues(how_well: Skill, here: Skill) -> bool:
    """Whether it knows the next token, and better than the one it was given."""
    return how_well.sigmas >= CERTAIN and not here.sigmas >= how_well.sigmas


def _settled(readings: Readings, best: Response, how_well: Skill, shifted: bool) -> SettledTask:
    right = f"{how_well.score * 100:.1f} % of {how_well.count} next tokens"
    figures = f"the teacher is right on {right}, where chance is {how_well.chance * 100:.1f} %"
    warnings: tuple[str, ...] = ()
    if how_well.at_chance:
        warnings = (f"the next tokens are not known to the teacher: {figures}",)
    settled = _asked(readings).settled(
        best,
        labels=True,
        per_position=True,
        shifted=shifted,
        reason=f"output '{best.name}' is judged as scores of the next token: {figures}",
        warnings=warnings,
    )
    return replace(settled, named=readings.task is not None)


def _scores_of(readings: Readings, probe: Probe, ids: Tensor) -> Response | None:
    """The output with scores of every id at each position."""
    for candidate in readings.candidates:
        if readings.task is None and candidate.kind != "class_scores":
            continue  # only who names a task may say that vectors are scores
        (output,) = probe.outputs([candidate])
        best = _asked(readings).reread(candidate, output)
        if best is None or best.dim is None:
            continue
        places = output.shape[: best.dim] + output.shape[best.dim + 1 :]
        enough = output.shape[best.dim] > int(ids[: len(output)].max())
        if places[1:] == ids.shape[1:] and enough:
            return best
    return None


def _asked(readings: Readings) -> Readings:
    """As if the user had named a language model."""
    return replace(readings, task=readings.task or LanguageModel())


def _same(labels: Tensor, ids: Tensor) -> bool:
    """Whether labels are these ids wherever both are given."""
    if labels.shape != ids.shape or labels.is_floating_point():
        return False
    known = (labels != NO_LABEL) & (ids != NO_LABEL)
    return bool(known.any()) and torch.equal(labels[known], ids[known].to(labels.dtype))
