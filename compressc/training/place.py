"""Where a run stands: all numbers of it that are no tensors."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from compressc.training.result import Epoch


class Place(BaseModel):
    """Numbers of a run; with its tensors they are all that it needs to go on.

    Attributes:
        rate: peak learning rate.
        steps: of the whole run.
        epoch: the epoch at work, counted from 1; 0 before the first validation.
        position: batches of that epoch that are done.
        step: where the schedule stands, in optimizer steps.
        factor: on the rate: halved at every setback.
        sums: of each term of the loss over the batches of the epoch, and of the loss itself.
        start, score: of the first and of the last validation.
        history: epochs that were finished.
        setbacks: epochs after which the run went back to its best state.
        diverged: the epoch in which it was given up.
    """

    model_config = ConfigDict(extra="forbid")

    rate: float
    steps: int = 1
    epoch: int = 0
    position: int = 0
    step: int = 0
    factor: float = 1.0
    sums: dict[str, float] = Field(default_factory=dict)
    start: tuple[float, ...] = ()
    score: tuple[float, ...] = ()
    history: list[Epoch] = Field(default_factory=list)
    setbacks: list[int] = Field(default_factory=list)
    diverged: int | None = None

    def begin(self, epoch: int) -> None:
        """Stand before the first batch of an epoch."""
        self.epoch, self.position, self.sums = epoch, 0, {}

    def add(self, sums: dict[str, float], count: int) -> None:
        """Take in the terms of so many more batches."""
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in sums.items()}
        self.position += count

    @property
    def means(self) -> dict[str, float]:
        """Of each term, over the batches of the epoch so far."""
        return {name: total / self.position for name, total in self.sums.items()}
