"""How long a run is, in steps: as many as were asked for, or as many as a time allows."""

from __future__ import annotations

import math
import re

#: A recovery takes hundreds of steps, however small the data are.
STEPS = 400
#: Samples in the smallest steps.
SMALLEST = 16
#: Epochs that give enough steps of data that are not small.
EPOCHS = 20
_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
_BUDGET = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h)\s*")


def parse_budget(text: str) -> float:
    """Seconds in `90s`, `10min` or `1.5h`.

    Raises:
        ValueError: for anything else, or none at all.
    """
    match = _BUDGET.fullmatch(text)
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not seconds:
        raise ValueError(f"a time is written 90s, 10min or 1.5h, not {text!r}")
    return seconds


def steps_within(budget: float, step: float, validation: float, per_epoch: int) -> int:
    """Steps that fit into a time together with the validations after each epoch, at least 1.

    Args:
        budget: seconds.
        step, validation: seconds of one.
        per_epoch: steps of an epoch.
    """
    epochs = int(budget / (step * per_epoch + validation))
    rest = budget - epochs * (step * per_epoch + validation) - validation
    return max(1, epochs * per_epoch + max(0, int(rest / step)))


def batch_size(samples: int, epochs: int) -> int:
    """Samples in a step: a small data set gives more, smaller steps. A multiple of 8, 16 to 64."""
    return min(64, max(SMALLEST, samples * epochs // STEPS // 8 * 8))


def epochs_of(samples: int) -> int:
    """How often to go through data: 20 times, more where the smallest steps would be too few."""
    return max(EPOCHS, math.ceil(STEPS * SMALLEST / samples))
