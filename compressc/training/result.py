"""What a run tells while it goes on and when it is done."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Epoch:
    """What one epoch did.

    Attributes:
        number: counted from 1.
        loss: mean training loss.
        score: of the validation after it.
        terms: mean of each term of the loss, before its weight.
    """

    number: int
    loss: float
    score: tuple[float, ...]
    terms: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Moment:
    """Where a run stands.

    Attributes:
        step, steps: optimizer steps done, and in all.
        epoch, epochs: the epoch at work, counted from 1, and how many there are.
        loss: mean training loss of the epoch so far.
        score: of the last validation.
        terms: mean of each term of the loss in the epoch so far, before its weight.
    """

    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float
    score: tuple[float, ...]
    terms: Mapping[str, float] = field(default_factory=dict)


class Hooks:
    """Told what happens in a run; override what you want to hear."""

    def stepped(self, moment: Moment) -> None:
        """After a step of the optimizer."""

    def validated(self, moment: Moment) -> None:
        """After a validation, that of the start among them."""

    def went_back(self, epoch: int) -> None:
        """After a setback in that epoch: the best state is in place again."""


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
        steps, epochs: of the whole run as it was planned.
    """

    start: tuple[float, ...]
    best: tuple[float, ...]
    best_epoch: int
    history: tuple[Epoch, ...]
    rate: float = math.nan
    setbacks: tuple[int, ...] = ()
    diverged: int | None = None
    steps: int = 0
    epochs: int = 0
