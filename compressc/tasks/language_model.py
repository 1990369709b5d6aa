"""The next token of a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from compressc.data.checks import NO_LABEL
from compressc.tasks.metric import ACCURACY, PERPLEXITY
from compressc.tasks.response import Kind
from compressc.tasks.rows import RowTask, class_scores

if TYPE_CHECKING:
    from compressc.tasks.settled import SettledTask
    from compressc.tasks.task import Scores

#: Inputs by the names that models give them.
IDS, MASK = "input_ids", "attention_mask"


class LanguageModel(RowTask):
    """Scores of the next token at each position.

    Without labels, those of position t are the ids at t + 1; what the attention mask leaves out has
    none. Loss: cross entropy. Scores: perplexity, exp of the mean negative log likelihood over all
    tokens; accuracy of the next token; agreement with the teacher.
    """

    name = "language_model"
    targets = "none, or the next ids i64[n, s], -100 for none"
    answers: ClassVar[tuple[Kind, ...]] = ("class_scores",)
    places = (0, 1)  # a text of one token is one, too

    def scores(self, settled: SettledTask) -> Scores:
        """Perplexity first."""
        from compressc.tasks.distances import Likelihood

        counted = class_scores(settled, (ACCURACY,))
        return {PERPLEXITY: Likelihood(settled.judged)} | counted if settled.labels else counted

    def labels(self, settled: SettledTask, inputs: Mapping[str, Tensor], labels: Any) -> Any:
        """The labels given, or the ids one position ahead."""
        if labels is not None and not settled.shifted:
            return labels
        return next_ids(inputs, labels)


def next_ids(inputs: Mapping[str, Tensor], labels: Tensor | None = None) -> Tensor | None:
    """For each position the id at the next, i64[b, s]; the last has none, nor has padding.

    Args:
        inputs: of the model, by name.
        labels: the ids once more, with `NO_LABEL` where they are not to be learned.

    Returns:
        None where no input holds ids.
    """
    ids = labels if labels is not None else find_ids(inputs)
    if ids is None:
        return None
    wanted = torch.full_like(ids, NO_LABEL, dtype=torch.int64)
    wanted[:, :-1] = ids[:, 1:]
    mask = inputs.get(MASK)
    if mask is not None and mask.shape == ids.shape:
        wanted[:, :-1].masked_fill_(mask[:, 1:] == 0, NO_LABEL)
    return wanted


def find_ids(inputs: Mapping[str, Tensor]) -> Tensor | None:
    """The input `input_ids`, else the only one of integers `[b, s]`."""
    if IDS in inputs:
        return inputs[IDS]
    found = [x for name, x in inputs.items() if name != MASK and _may_be_ids(x)]
    return found[0] if len(found) == 1 else None


def _may_be_ids(x: Tensor) -> bool:
    return x.ndim == 2 and not x.is_floating_point() and x.dtype != torch.bool
