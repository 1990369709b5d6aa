"""Squared error in units of what is to be hit, so that it means the same whatever the unit is."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

#: Values that vary by less are constant, and dividing by their variance would blow up noise.
LEAST_VARIANCE = 1e-6


def scaled_error(ours: Tensor, theirs: Tensor) -> Tensor:
    """Mean squared difference over the variance of `theirs`: 1 for a constant guess.

    Args:
        ours, theirs: f[n, ...] of one shape; computed in float32.
    """
    return F.mse_loss(ours.float(), theirs.float()) / variance(theirs)


def variance(values: Tensor) -> Tensor:
    """Variance around the mean of each column of `[n, ...]`, the mean over columns; never 0."""
    return values.float().var(0, correction=0).mean().clamp_min(LEAST_VARIANCE)
