"""The class of each row, and the logits of the others."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from compressc.distillation import Seen


def targets(seen: Seen) -> Tensor:
    """The class of each row by its label, i64[n]; by the teacher where it has none."""
    answers = seen.teacher.rows.argmax(-1)
    return answers if seen.labels is None else torch.where(seen.labels < 0, answers, seen.labels)


def apart(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """`[n, v]` -> the logit of the target `[n]`, those of the other classes `[n, v - 1]`."""
    is_target = F.one_hot(target, logits.shape[-1]).bool()
    return logits[is_target], logits[~is_target].view(len(logits), -1)
