"""`alm`: how likely spans of text are, whatever words they are cut into."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from compressc.distillation import Objective, Reading, Seen, Unreduced, widened

#: A span is never more likely than this: the log of what is left must stay finite.
SURE = -1e-6


class Alm(Objective):
    """Approximate likelihood matching, for a teacher of another tokenizer.

    Both models give each span of text that both tokenizers cut at the same places a likelihood: the
    product of those of its words. The two are compared as chances of yes and no, softened by T.
    Differs from its source by the factor T, which keeps the size of the gradient, and by leaving
    out what it does for spans whose end the next word decides.
    """

    name: ClassVar[str] = "alm"
    reads: ClassVar[frozenset[Reading]] = frozenset({"rows", "labels", "spans"})
    formula: ClassVar[str] = (
        "T * mean over spans of (a * log(a/b) + (1 - a) * log((1-a)/(1-b))), "
        "a, b = likelihood of the span by t, s ^ (1/T)"
    )
    paper: ClassVar[str] = "Minixhofer, Vulic and Ponti 2025, arXiv 2503.20083, equations 5 to 8"
    shift_free: ClassVar[bool] = True

    T: Annotated[float, Field(gt=0, le=10_000)] = 100.0
    """Temperature of the likelihoods: a higher one makes more of spans of many words."""

    def check(self, seen: Seen) -> None:
        """There are spans, where the teacher has another tokenizer."""
        if seen.spans is None:
            hint = "give tokenizers='own/tokenizer.json,teacher/tokenizer.json'"
            raise self.misfit("needs a teacher of another tokenizer", "spans of none", hint)

    def __call__(self, seen: Seen) -> Unreduced:
        """A mean over the spans of the batch."""
        assert seen.spans is not None
        assert seen.labels is not None
        number, theirs = seen.spans.number, widened(seen.spans.likelihood)
        if not len(theirs):
            return Unreduced("batch", [seen.student.rows.sum() * 0.0])
        within = number >= 0
        logs = widened(seen.student.rows[within]).log_softmax(-1)
        words = logs.gather(-1, seen.labels[within, None]).squeeze(-1)
        ours = words.new_zeros(len(theirs)).index_add(0, number[within], words)
        return Unreduced("batch", [binary_divergence(theirs.to(ours.dtype), ours, self.T).mean()])


def binary_divergence(theirs: Tensor, ours: Tensor, t: float) -> Tensor:
    """T * KL of two chances of yes, given by their logs `[k]` at T = 1; `[k]`."""
    a, b = (x.clamp_max(SURE) / t for x in (theirs, ours))
    no = [torch.log(-torch.expm1(x)) for x in (a, b)]
    return t * (a.exp() * (a - b) - torch.expm1(a) * (no[0] - no[1]))
