"""The training loop: AdamW, cosine schedule, best state kept, a step back where the loss rises."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Generic

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from compressc.data.order import mixed
from compressc.errors import CompresscError
from compressc.training.checkpoint import Checkpoints
from compressc.training.lesson import Batch, Lesson, Recipe
from compressc.training.optimizer import Group, adamw, parameters_of
from compressc.training.place import Place
from compressc.training.rate import relative_rate
from compressc.training.result import Epoch, Hooks, Moment, TrainingResult
from compressc.training.schedule import cosine_with_warmup
from compressc.training.state import RunState, tensors_of
from compressc.training.statistics import batch_norms, reestimate

#: Setbacks in a row after which a run is given up.
PATIENCE = 4
#: The name of the loss itself beside those of its terms.
LOSS = "total"


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
    gained since the start is lost, is a setback: the best state comes back, the learning rate is
    halved, the optimizer forgets. After four in a row the run is given up.

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
    run = _Run(module, lesson, recipe, hooks, kept)
    with _generators_kept(run.parameters), _trainable(run.parameters):
        try:
            kept.load(run.state, run.about)
            while not run.is_over:
                run.go_on()
        finally:
            run.state.best.restore()
            run.state.best.close()
            for part in run.modules.values():
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
        self.per_epoch = len(lesson.batches)
        given = recipe.learning_rate
        rate = relative_rate(self.parameters) if given is None else given
        optimizer = adamw(self.groups, recipe.weight_decay)
        self.state = RunState(self.modules, optimizer, Place(rate=rate))

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.recipe.epochs * self.per_epoch

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
        return place.diverged is not None or place.epoch > self.recipe.epochs

    def go_on(self) -> None:
        """Do what comes next: score the start, or the rest of an epoch."""
        place = self.state.place
        if place.epoch == 0:
            self._validate()
        elif not (self._rest_of_epoch() and self._validate()):
            self._step_back()
        place.begin(place.epoch + 1)
        if self.checkpoints.due(at_the_end_of_an_epoch=True):
            self.checkpoints.save(self.state, self.about)

    def _rest_of_epoch(self) -> bool:
        """The batches that are left; False where a loss or gradient was not finite."""
        self._set_modes()
        place = self.state.place
        seed, start = self.recipe.seed, place.position
        for batch in self.lesson.batches.epoch(seed, place.epoch, start):
            values = self._step(batch)
            if values is None:
                return False
            place.add(values)
            moment = self._moment()
            for hook in self.hooks:
                hook.stepped(moment)
            if self.checkpoints.due():
                self.checkpoints.save(self.state, self.about)
        return True

    def _set_modes(self) -> None:
        """Training mode, but for what the recipe wants at rest."""
        resting: list[nn.Module] = []
        for module in self.modules.values():
            module.train()
            if not self.recipe.dropout:
                resting += [part for part in module.modules() if isinstance(part, _DropoutNd)]
            if not self.recipe.batch_statistics:
                resting += batch_norms(module.modules())
        for part in resting:
            part.eval()

    def _step(self, batch: Batch) -> dict[str, float] | None:
        """One optimizer step: its terms; None, and no step, where something is not finite."""
        state, place = self.state, self.state.place
        torch.manual_seed(int(mixed(self.recipe.seed, place.epoch, place.position)[0]))
        terms = self.lesson.terms(self.module, batch)
        loss = self._weighted(terms)
        values = {LOSS: float(loss.detach())}
        if not math.isfinite(values[LOSS]):
            return None
        values |= {name: float(term.detach()) for name, term in terms.items()}
        factor = place.factor * cosine_with_warmup(place.step, self.steps, self.recipe.warmup)
        for group in state.optimizer.param_groups:
            group["lr"] = place.rate * factor * group["factor"]
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip or math.inf)
        if not math.isfinite(float(norm)):
            return None
        state.optimizer.step()
        place.step += 1
        return values

    def _weighted(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The loss: the sum of the terms, each with its weight."""
        weights = self.lesson.weights
        return torch.stack([weights.get(name, 1.0) * term for name, term in terms.items()]).sum()

    def _step_back(self) -> None:
        """To the best state, at half the rate; given up where that was tried often enough."""
        state, place, number = self.state, self.state.place, self.state.place.epoch
        place.setbacks.append(number)
        state.best.restore()
        place.factor /= 2
        place.step = number * self.per_epoch  # the schedule goes on behind the epoch
        state.optimizer = adamw(self.groups, self.recipe.weight_decay)
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
        torch.manual_seed(int(mixed(self.recipe.seed, place.epoch, self.per_epoch)[0]))
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

    def _is_setback(self) -> bool:
        """Whether the score is not finite, or below the middle between start and best."""
        place, best = self.state.place, self.state.best.score
        if not all(map(math.isfinite, place.score)):
            return True
        first = place.start[0]
        return best is not None and math.isfinite(first) and place.score[0] < (first + best[0]) / 2

    def _moment(self) -> Moment:
        place = self.state.place
        means = place.means
        loss = means.pop(LOSS, math.nan)
        epoch = max(place.epoch, 1)
        return Moment(place.step, self.steps, epoch, self.recipe.epochs, loss, place.score, means)

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
