"""What an output chooses in each row or position, as integers that can be counted."""

from __future__ import annotations

import math

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


def turned_by(response: Response, output: Tensor, error: float) -> float:
    """Share of positions whose choice changes, on average, where the output is off by chance.

    Of two numbers that are off by normal errors of root mean square e each, the larger one changes
    with the probability of a normal deviate beyond their distance / (sqrt(2) e).

    Args:
        response: what the output is.
        output: `[b, ...]`.
        error: root mean square of the errors, in the output's own unit.
    """
    if not output.is_floating_point() or not 0 < error < math.inf:
        return 0.0
    if response.kind == "class_scores":
        rows = as_rows(output, response.dim)
        if rows.shape[-1] < 2:
            return 0.0
        best = rows.topk(2).values.double()
        distance = (best[..., 0] - best[..., 1]) / 2
    else:
        distance = (output.double() - response.threshold).abs() / math.sqrt(2)
    return float(torch.erfc(distance / error).nan_to_num().mean() / 2)
