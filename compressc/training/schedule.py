"""The learning rate over a run."""

from __future__ import annotations

import math


def cosine_with_warmup(step: int, steps: int, warmup: float) -> float:
    """Factor on the peak learning rate at a step of a run.

    Linear from near 0 to 1 over the first `warmup` share of the steps, then half a cosine down to
    near 0 (Loshchilov and Hutter 2017, eq. 5, without restarts). Never 0: every step learns.

    Args:
        step: 0 <= step < steps.
        steps: steps of the whole run.
        warmup: share of the run that warms up, 0 <= warmup < 1.
    """
    rising = min(int(warmup * steps), steps - 1)
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))
