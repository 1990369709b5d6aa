"""The training loop: AdamW, cosine schedule, best state kept, a step back where the loss rises."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from itertools import islice, pairwise
from statistics import median
from typing import Any, Generic

import torch
from torch import nn

from compressc import processes
from compressc.errors import CompresscError
from compressc.training.checkpoint import Checkpoints
from compressc.training.length import steps_within
from compressc.training.lesson import Batch, Lesson, Recipe
from compressc.training.machine import channels_last
from compressc.training.optimizer import Group, optimizer_of, parameters_of
from compressc.training.place import Place
from compressc.training.rate import relative_rate
from compressc.training.result import Epoch, Hooks, Moment, TrainingResult
from compressc.training.schedule import cosine_with_warmup
from compressc.training.sharding import is_shared, shared_out
from compressc.training.state import RunState, tensors_of
from compressc.training.statistics import reestimate
from compressc.training.stepping import LOSS, Stepper, placed, seed_step

#: Setbacks in a row after which a run is given up.
PATIENCE = 4
#: Of what was there at the start, what an epoch may lose without being one.
LITTLE = 0.1
#: Steps that are tried to measure the pace.
TRIALS = 8


def train(
    module: nn.Module,
    lesson: Lesson[Batch],
    recipe: Recipe,
    *,
    hooks: Sequence[Hooks] = (),
    checkpoints: Checkpoints | None = None,
) -> TrainingResult:
    """Fit a module in place and leave it in its best state, in eval mode.

    The same arguments give the same bytes on the same machine; the global generators are left as
    they were. Ctrl-C passes through: the module then holds the best state so far.

    An epoch with a loss or gradient that is not finite, or after which more than half of what was
    gained since the start and a tenth of what there was is lost, is a setback: the best state comes
    back, the learning rate is halved, the optimizer forgets. After four in a row the run is given
    up.

    Args:
        module: what to train; dropout and batch norm are active in steps, not in validation.
        lesson: what to learn.
        recipe: how.
        hooks: told what happens.
        checkpoints: where the run is kept, and gone on with: what comes of it is the same to the
            last bit, wherever the process was killed.

    Raises:
        CompresscError: CC502 where no state had a finite score, not even the first.
    """
    kept = checkpoints or Checkpoints()
    shared = recipe.shard and processes.world() > 1
    run = _Run(shared_out(module) if shared else module, lesson, recipe, hooks, kept)
    with (
        _generators_kept(run.parameters),
        _trainable(run.parameters),
        channels_last(run.modules, recipe.channels_last and not shared),
    ):
        try:
            kept.load(run.state, run.about)
            while not run.is_over:
                run.go_on()
            run.settle()
        finally:
            run.state.best.restore()
            if shared:
                run.state.best.restore(tensors_of({"model": module}))
            run.state.best.close()
            for part in (module, *run.modules.values()):
                part.eval()
    return run.result()


class _Run(Generic[Batch]):
    """A state and what moves it."""

    def __init__(
        self,
        module: nn.Module,
        lesson: Lesson[Batch],
        recipe: Recipe,
        hooks: Sequence[Hooks],
        checkpoints: Checkpoints,
    ) -> None:
        self.module, self.modules = module, {"model": module, **lesson.beside}
        every = tuple(p for part in self.modules.values() for p in part.parameters())
        self.groups = lesson.groups or [Group(every)]
        self.parameters = parameters_of(self.groups)
        self.lesson, self.recipe = lesson, recipe
        self.hooks, self.checkpoints = hooks, checkpoints
        self.stepper = Stepper(self.modules, self.parameters, lesson, recipe)
        self.per_epoch = math.ceil(len(lesson.batches) / recipe.accumulate)
        given = recipe.learning_rate
        rate = relative_rate(self.parameters) if given is None else given
        place = Place(rate=rate, steps=recipe.steps or recipe.epochs * self.per_epoch)
        optimizer = optimizer_of(self.groups, recipe)
        self.state = RunState(self.modules, optimizer, place, recipe.ema)

    @property
    def epochs(self) -> int:
        """Of the whole run, the last one perhaps not whole."""
        return math.ceil(self.state.place.steps / self.per_epoch)

    @property
    def about(self) -> dict[str, Any]:
        """What a run must have in common with this one to be gone on with."""
        tensors = tensors_of(self.modules)
        shapes = {name: [str(t.dtype), *t.shape] for name, t in tensors.items()}
        return {"recipe": asdict(self.recipe), "per_epoch": self.per_epoch, "shapes": shapes}

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to do."""
        place = self.state.place
        return place.diverged is not None or place.epoch > self.epochs

    def go_on(self) -> None:
        """Do what comes next: score the start, or the rest of an epoch."""
        place = self.state.place
        if place.epoch == 0:
            start = time.perf_counter()
            self._validate()
            if self.recipe.budget is not None:
                place.steps = self._steps_within(start, self.recipe.budget)
        elif not (self._rest_of_epoch() and self._validate()):
            self._step_back()
        place.begin(place.epoch + 1)
        self._save_where_due(at_the_end_of_an_epoch=True)

    def _steps_within(self, start: float, budget: float) -> int:
        """Steps that fit into so many seconds from `start` on: some are tried without effect."""
        recipe, validated = self.recipe, time.perf_counter()
        tensors = {name: t.detach().clone() for name, t in tensors_of(self.modules).items()}
        trial = optimizer_of(self.groups, recipe)
        self.stepper.set_modes()
        times = [validated]
        lots = self.lesson.batches.epoch(recipe.seed, 1)
        for batch in islice(lots, TRIALS * recipe.accumulate):
            self.stepper.step(trial, [batch], 1, 0.0)
            times.append(time.perf_counter())
        with torch.no_grad():
            for name, tensor in tensors_of(self.modules).items():
                tensor.copy_(tensors[name])
        step = median(b - a for a, b in pairwise(times)) * recipe.accumulate
        left = budget - (times[-1] - start)
        return processes.of_main(steps_within(left, step, validated - start, self.per_epoch))

    def _rest_of_epoch(self) -> bool:
        """The batches that are left; False where a loss or gradient was not finite."""
        self.stepper.set_modes()
        state, place, recipe = self.state, self.state.place, self.recipe
        total = len(self.lesson.batches)
        stream = iter(self.lesson.batches.epoch(recipe.seed, place.epoch, place.position))
        while place.position < total and place.step < place.steps:
            count = min(recipe.accumulate, total - place.position)
            factor = place.factor * cosine_with_warmup(place.step, place.steps, recipe.warmup)
            batches = self._seeded(stream, count)
            sums = self.stepper.step(state.optimizer, batches, count, place.rate * factor)
            if sums is None:
                return False
            place.step += 1
            place.add(sums, count)
            if state.average is not None:
                state.average.update(place.step)
            moment = self._moment()
            for hook in self.hooks:
                hook.stepped(moment)
            self._save_where_due()
        return True

    def _save_where_due(self, *, at_the_end_of_an_epoch: bool = False) -> None:
        due = self.checkpoints.due(at_the_end_of_an_epoch=at_the_end_of_an_epoch)
        if any(map(is_shared, self.parameters)):  # all have a part of what is saved
            due = processes.of_main(due)
        if due:
            self.checkpoints.save(self.state, self.about)

    def _seeded(self, stream: Iterator[Batch], count: int) -> Iterator[Batch]:
        """The next batches, each with the generator of its place."""
        place = self.state.place
        for position, batch in enumerate(islice(stream, count), place.position):
            seed_step(self.recipe.seed, place.epoch, position)
            yield placed(batch, place.step / place.steps)

    def _step_back(self) -> None:
        """To the best state, at half the rate; given up where that was tried often enough."""
        state, place, number = self.state, self.state.place, self.state.place.epoch
        place.setbacks.append(number)
        state.best.restore()
        if state.average is not None:
            state.average.begin_anew()
        place.factor /= 2
        # the schedule goes on behind the epoch
        place.step = min(number * self.per_epoch, place.steps)
        state.optimizer = optimizer_of(self.groups, self.recipe)
        if place.setbacks[-PATIENCE:] == list(range(number - PATIENCE + 1, number + 1)):
            place.diverged = number
        for hook in self.hooks:
            hook.went_back(number)

    def _validate(self) -> bool:
        """Score the module and offer its state as the best; False where it is a setback."""
        state, place = self.state, self.state.place
        for module in self.modules.values():
            module.zero_grad(set_to_none=True)
            module.eval()
        seed_step(self.recipe.seed, place.epoch, len(self.lesson.batches))
        averaged = nullcontext() if state.average is None else state.average.in_place()
        with averaged:
            # running averages trail behind the weights
            if place.epoch and self.lesson.seen and self.recipe.batch_statistics:
                reestimate(self.module, self.lesson.seen)
            with torch.no_grad():
                score = self.lesson.validate(self.module)
            state.best.offer(score, place.epoch)
        place.score = score if isinstance(score, tuple) else (score,)
        if place.epoch == 0:
            place.start = place.score
        else:
            means = place.means
            place.history.append(Epoch(place.epoch, means.pop(LOSS), place.score, means))
        moment = self._moment()
        for hook in self.hooks:
            hook.validated(moment)
        return not self._is_setback()

    def settle(self) -> None:
        """The best state with statistics from more samples than each epoch has time for."""
        best, seen = self.state.best, self.lesson.seen_last
        if not (best.epoch and seen and self.recipe.batch_statistics):
            return
        best.restore()
        for module in self.modules.values():
            module.eval()
        seed_step(self.recipe.seed, best.epoch, len(self.lesson.batches))
        reestimate(self.module, seen)
        with torch.no_grad():
            best.offer(self.lesson.validate(self.module), best.epoch)

    def _is_setback(self) -> bool:
        """Whether the score is not finite, or far below the best.

        Far is half of what was gained, and a tenth of what there was: a student with new weights
        begins near the loss of a constant answer, and does a little worse before it does better.
        """
        place, best = self.state.place, self.state.best.score
        if not all(map(math.isfinite, place.score)):
            return True
        first = place.start[0]
        if best is None or not math.isfinite(first):
            return False
        return place.score[0] < best[0] - max((best[0] - first) / 2, LITTLE * abs(first))

    def _moment(self) -> Moment:
        place = self.state.place
        means = place.means
        loss = means.pop(LOSS, math.nan)
        epoch = max(place.epoch, 1)
        return Moment(place.step, place.steps, epoch, self.epochs, loss, place.score, means)

    def result(self) -> TrainingResult:
        """What came of it.

        Raises:
            CompresscError: CC502 where there was no finite score.
        """
        place, best = self.state.place, self.state.best
        if best.score is None:
            raise CompresscError(
                "CC502",
                "training must reach a finite score",
                got=f"none in {len(place.history)} epochs",
                hint="lower the learning rate, and check the model and the data",
            )
        return TrainingResult(
            start=place.start,
            best=best.score,
            best_epoch=best.epoch,
            history=tuple(place.history),
            rate=place.rate,
            setbacks=tuple(place.setbacks),
            diverged=place.diverged,
            steps=place.steps,
            epochs=self.epochs,
        )


@contextmanager
def _generators_kept(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """The global generators afterwards as they were before."""
    devices = sorted({p.device.index or 0 for p in parameters if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        yield


@contextmanager
def _trainable(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Gradients on inside; afterwards the flags as they were, and no gradient left behind."""
    flags = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            yield
    finally:
        for parameter, flag in zip(parameters, flags, strict=True):
            parameter.grad = None
            parameter.requires_grad_(flag)
