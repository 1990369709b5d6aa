"""What a run tells while it goes on and when it is done."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Epoch:
    """What one epoch did: mean training loss and the score after it."""

    number: int
    loss: float
    score: tuple[float, ...]


@dataclass(frozen=True)
class Moment:
    """Where a run stands; given to `progress` after every step and every validation.

    Attributes:
        step, steps: optimizer steps done, and in all.
        epoch, epochs: the epoch at work, counted from 1, and how many there are.
        loss: mean training loss of the epoch so far.
        score: of the last validation.
    """

    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float
    score: tuple[float, ...]


@dataclass(frozen=True)
class TrainingResult:
    """What came of a run; the module holds the best state.

    Attributes:
        start: score before the first step.
        best: score of the state that was kept.
        best_epoch: the epoch that state was reached in; 0 means that training made nothing better.
        history: one entry for each epoch that was finished.
        rate: peak learning rate that the run began with.
        setbacks: epochs after which it went back to the best state and halved the rate.
        diverged: the epoch in which it was given up, after setbacks in a row; or None.
    """

    start: tuple[float, ...]
    best: tuple[float, ...]
    best_epoch: int
    history: tuple[Epoch, ...]
    rate: float = math.nan
    setbacks: tuple[int, ...] = ()
    diverged: int | None = None
