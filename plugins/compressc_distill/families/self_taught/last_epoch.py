"""`last_epoch`: what the student itself said of each sample in the epoch before."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from compressc.distillation import Objective, Reading, Seen, Unreduced, widened


class LastEpoch(Objective):
    """Cross entropy with the label and the student's own answer of the epoch before, mixed.

    The share of its own answer rises with the run. No teacher is asked. In the first epoch, and
    where epochs are compared, the label stands alone. Samples without a label have no part in it,
    as in `ce`.
    """

    name: ClassVar[str] = "last_epoch"
    reads: ClassVar[frozenset[Reading]] = frozenset({"rows", "labels"})
    needs_labels: ClassVar[bool] = True
    formula: ClassVar[str] = (
        "mean_i -sum_c ((1 - a) * [c = y_i] + a * q_i,c) * log softmax(s_i)_c, "
        "a = share * progress, q_i the student's softmax of the epoch before"
    )
    paper: ClassVar[str] = "Kim et al. 2021 (PS-KD), arXiv 2006.12000, equation 5"
    shift_free: ClassVar[bool] = True
    exempt: ClassVar[Mapping[str, str]] = MappingProxyType(
        dict.fromkeys(("minimum", "descent"), "the labels say what is right, not the teacher")
    )

    share: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Of the student's own answer in the target, at the end of the run."""

    def check(self, seen: Seen) -> None:
        """There is one row for each sample, and a class for each row."""
        if seen.classes < 2:
            raise self.misfit("needs 2 classes or more", seen.classes)
        if seen.positions is not None and len(seen.student.rows) != len(seen.positions):
            raise self.misfit("needs one answer to each sample", f"{len(seen.student.rows)} rows")

    def module(self, seen: Seen) -> nn.Module | None:
        """What was answered, sample by sample."""
        return Remembered(seen.samples, seen.classes) if seen.samples else None

    def __call__(self, seen: Seen) -> Unreduced:
        """For each row."""
        logs = widened(seen.student.rows).log_softmax(-1)
        if seen.labels is None:
            raise ValueError("last_epoch needs labels")
        known = (seen.labels >= 0).to(logs.dtype)
        right = F.one_hot(seen.labels.clamp_min(0), seen.classes).to(logs.dtype)
        own, share = torch.zeros_like(logs), torch.zeros_like(known)
        if isinstance(seen.own, Remembered) and seen.own.training and seen.positions is not None:
            own, there = seen.own.exchange(seen.positions, logs.detach())
            share = self.share * seen.progress * there
        target = (1 - share)[:, None] * right + share[:, None] * own
        return Unreduced("rows", [-(target * logs).sum(-1)], weights=[known])


class Remembered(nn.Module):
    """The latest answer to each sample; part of every checkpoint.

    Args:
        samples: how many.
        classes: of an answer.
    """

    answers: Tensor
    there: Tensor

    def __init__(self, samples: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("answers", torch.zeros(samples, classes))
        self.register_buffer("there", torch.zeros(samples))

    @torch.no_grad()
    def exchange(self, positions: Tensor, logs: Tensor) -> tuple[Tensor, Tensor]:
        """What was answered before `[b, c]`, and whether anything was `[b]`; these come instead.

        Args:
            positions: of the samples, i64[b].
            logs: log-probabilities `[b, c]`.
        """
        at = positions.to(self.answers.device)
        before = self.answers[at].to(logs.dtype), self.there[at].to(logs.dtype)
        self.answers[at] = logs.exp().to(self.answers.dtype)
        self.there[at] = 1.0
        return before
