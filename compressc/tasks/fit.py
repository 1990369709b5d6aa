"""Do labels fit an output, and does the teacher know them better than chance?"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compressc.data.checks import NO_LABEL
from compressc.tasks.answers import chosen
from compressc.tasks.response import Kind, Response

#: Standard errors above chance from which on the teacher is taken to know the labels.
SURE = 2.0
#: Fewer labelled positions than this cannot show that it does not.
ENOUGH = 30


@dataclass(frozen=True)
class Skill:
    """How well the teacher's answers meet the labels.

    Attributes:
        score: the share that is right; R^2 for values.
        chance: what answers that know nothing of the labels would score.
        sigmas: how far above that, in standard errors.
        count: labelled positions.
    """

    score: float
    chance: float
    sigmas: float
    count: int

    @property
    def at_chance(self) -> bool:
        """Whether nothing speaks for it that the teacher knows these labels."""
        return self.count >= ENOUGH and self.sigmas < SURE


def fits(response: Response, output: Tensor, labels: Tensor) -> list[Response]:
    """Every reading of an output that the labels can be targets of, by shape.

    Args:
        response: the output as the graph has it.
        output: what the teacher puts out, `[b, ...]`.
        labels: of the same samples, `[b, ...]`.
    """
    found = []
    if not labels.is_floating_point():
        for dim in _class_dims(response, output):
            if same_shape(labels.shape, output.shape[:dim] + output.shape[dim + 1 :]):
                found.append(_as_classes(response, dim))
    if same_shape(labels.shape, output.shape) and response.ending not in _WHOLE_ROW:
        found.append(_one_by_one(response, output, labels))
    return found


#: Endings that make one thing of a whole row: no label for each number is a target of it.
_WHOLE_ROW = ("softmax", "log_softmax", "normalize")


def _class_dims(response: Response, output: Tensor) -> list[int]:
    """Where the classes may be: where the model says so, else last or second."""
    if not output.is_floating_point() or output.ndim < 2 or response.ending == "normalize":
        return []
    if response.kind == "class_scores" and response.ending:
        return [] if response.dim is None else [response.dim]
    return [dim for dim in dict.fromkeys((output.ndim - 1, 1)) if output.shape[dim] > 1]


def same_shape(a: torch.Size, b: torch.Size) -> bool:
    """Equal up to dimensions of size 1 behind the batch."""
    return [a[0], *(n for n in a[1:] if n > 1)] == [b[0], *(n for n in b[1:] if n > 1)]


def _as_classes(response: Response, dim: int) -> Response:
    if response.ending in _WHOLE_ROW:
        return response
    return replace(response, kind="class_scores", dim=dim, learned="class_scores", value_dim=dim)


def _one_by_one(response: Response, output: Tensor, labels: Tensor) -> Response:
    """One label for each number: ids, bits or numbers."""
    if not output.is_floating_point():
        return response
    if _are_bits(labels):
        bits: Kind = "independent_scores"
        chances = bool(((output >= 0) & (output <= 1)).all())
        threshold = response.threshold if response.ending else 0.5 if chances else 0.0
        return replace(response, kind=bits, learned=bits, threshold=threshold)
    if response.ending and bool(((labels >= 0) & (labels <= 1)).all()):
        return replace(response, kind="values")  # chances, learned before the sigmoid
    return replace(response, kind="values", learned="values", ending="", value_dim=response.dim)


def _are_bits(labels: Tensor) -> bool:
    return bool(((labels == 0) | (labels == 1) | (labels == NO_LABEL)).all())


def are_targets(response: Response, output: Tensor, labels: Tensor) -> bool:
    """Whether labels of samples can be what one reading of their outputs is held against.

    Args:
        response: the reading that was settled.
        output: what the teacher puts out, `[b, ...]`.
        labels: of the same samples, `[b, ...]`.
    """
    wanted, dim = output.shape, response.dim
    if response.kind == "class_scores" and dim is not None and output.is_floating_point():
        if labels.is_floating_point():
            return False
        wanted = wanted[:dim] + wanted[dim + 1 :]
    if response.kind == "independent_scores" and not _are_bits(labels):
        return False
    return same_shape(labels.shape, wanted)


def skill(response: Response, output: Tensor, labels: Tensor) -> Skill:
    """How well outputs `[b, ...]` meet labels of the same samples."""
    if response.kind == "values":
        score = _r2(response, output, labels)
        return Skill(score, 0.0, math.inf if score > 0 else -math.inf, labels.numel())
    wanted = labels.flatten().long()
    known = wanted != NO_LABEL
    answers, wanted = chosen(response, output)[known], wanted[known]
    count = len(wanted)
    if not count:
        return Skill(math.nan, math.nan, math.nan, 0)
    score = float((answers == wanted).double().mean())
    # what independent answers of the same frequencies would hit
    size = int(max(answers.max(), wanted.max())) + 1
    given, true = (
        torch.bincount(x.clamp_min(0), minlength=size).double() for x in (answers, wanted)
    )
    chance = float(given @ true) / count**2
    error = math.sqrt(max(chance * (1 - chance), 1e-12) / count)
    return Skill(score, chance, (score - chance) / error, count)


def _r2(response: Response, output: Tensor, labels: Tensor) -> float:
    from compressc.tasks.distances import Errors

    errors = Errors(response)
    errors.update(output, labels)
    return errors.compute()["r2"]
