"""What an output chooses in each row or position, as integers that can be counted."""

from __future__ import annotations

import torch
from torch import Tensor

from compressc.tasks.response import Response, as_rows


def chosen(response: Response, output: Tensor) -> Tensor:
    """What is chosen at each position, i64, flat; -1 where a NaN leaves nothing to choose by."""
    answers = response.answers(output)
    if not output.is_floating_point():
        return answers
    # argmax ranks NaN highest, so that a broken row would be right by luck
    broken = torch.isnan(output)
    if response.kind == "class_scores":
        return answers.masked_fill(as_rows(broken, response.dim).any(-1), -1)
    return answers.masked_fill(broken.flatten(), -1)


def agreement(response: Response, output: Tensor, teacher: Tensor) -> float:
    """Share of positions at which output and teacher choose the same, in 0..1.

    A position where either holds NaN counts as disagreement.
    """
    ours, theirs = chosen(response, output), chosen(response, teacher)
    return float(((ours == theirs) & (ours >= 0)).double().mean())
