"""Weights that are sparse stay sparse: exact zeros among the others do not move in training."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from compressc.training.sharding import whole

#: Share of zeros from which a weight counts as sparse. Weights that were trained have none, the
#: padding row of a table is less; and those that begin as an identity have more, and are to move.
LEAST, MOST = 0.1, 0.95


def zeros_of(parameters: Iterable[nn.Parameter]) -> dict[nn.Parameter, Tensor]:
    """The sparse ones of matrices and filters, and where they are zero, bool of their shape."""
    found = {}
    for parameter in parameters:
        if parameter.ndim > 1 and parameter.is_floating_point():
            zeros = parameter.detach() == 0
            if LEAST <= share_of(zeros) <= MOST:
                found[parameter] = zeros
    return found


def share_of(zeros: Tensor) -> float:
    """Of True among all."""
    return float(whole(zeros).float().mean()) if zeros.numel() else 0.0


@torch.no_grad()
def keep_zeros(zeros: dict[nn.Parameter, Tensor]) -> None:
    """Write the zeros again, in place."""
    for parameter, where in zeros.items():
        parameter.masked_fill_(where, 0.0)
