"""The training loop: AdamW, cosine schedule, best state kept, a step back where the loss rises."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from compressc.errors import CompresscError
from compressc.training.best import BestState
from compressc.training.lesson import Batch, Lesson, Recipe
from compressc.training.rate import relative_rate
from compressc.training.result import Epoch, Moment, TrainingResult
from compressc.training.schedule import cosine_with_warmup
from compressc.training.statistics import batch_norms, reestimate

#: Setbacks in a row after which a run is given up.
PATIENCE = 4


def train(
    module: nn.Module,
    lesson: Lesson[Batch],
    recipe: Recipe,
    *,
    parameters: Iterable[nn.Parameter] | None = None,
    progress: Callable[[Moment], None] = lambda moment: None,
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
        parameters: what to train, at least one; all of the module's where it is not given.
        progress: told after every step and every validation.

    Raises:
        CompresscError: CC502 where no state had a finite score, not even the first.
    """
    trained = list(module.parameters() if parameters is None else parameters)
    run = _Run(module, trained, recipe, len(lesson.batches), progress)
    with _seeded(recipe.seed, trained), _trainable(trained):
        try:
            run.validate(lesson, 0)
            for number in range(1, recipe.epochs + 1):
                went_well = run.epoch(lesson, number) and run.validate(lesson, number)
                if not went_well and not run.step_back(number):
                    break
        finally:
            run.best.restore()
            run.best.close()
            module.eval()
    return run.result()


@dataclass
class _Run:
    """State of one run."""

    module: nn.Module
    parameters: list[nn.Parameter]
    recipe: Recipe
    per_epoch: int
    progress: Callable[[Moment], None]
    history: list[Epoch] = field(default_factory=list)
    start: tuple[float, ...] = ()
    score: tuple[float, ...] = ()
    mean: float = math.nan
    step: int = 0
    factor: float = 1.0
    setbacks: list[int] = field(default_factory=list)
    diverged: int | None = None

    def __post_init__(self) -> None:
        self.best = BestState(self.module)
        self.generator = torch.Generator().manual_seed(self.recipe.seed)
        given = self.recipe.learning_rate
        self.learning_rate = relative_rate(self.parameters) if given is None else given
        self.optimizer = _adamw(self.parameters, self.recipe.weight_decay)

    @property
    def steps(self) -> int:
        return self.recipe.epochs * self.per_epoch

    def epoch(self, lesson: Lesson[Batch], number: int) -> bool:
        """One pass over the data; False where a loss or gradient was not finite."""
        self._set_modes()
        total = 0.0
        for count, batch in enumerate(lesson.batches.epoch(self.generator), 1):
            value = self._step(lesson.loss(self.module, batch))
            if value is None:
                return False
            total += value
            self.mean = total / count
            self._tell(number)
        return True

    def _set_modes(self) -> None:
        """Training mode, but for what the recipe wants at rest."""
        self.module.train()
        resting: list[nn.Module] = []
        if not self.recipe.dropout:
            resting += [part for part in self.module.modules() if isinstance(part, _DropoutNd)]
        if not self.recipe.batch_statistics:
            resting += batch_norms(self.module.modules())
        for part in resting:
            part.eval()

    def _step(self, loss: Tensor) -> float | None:
        """One optimizer step; None, and no step, where loss or gradient is not finite."""
        value = float(loss.detach())
        if not math.isfinite(value):
            return None
        factor = self.factor * cosine_with_warmup(self.step, self.steps, self.recipe.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * factor
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip or math.inf)
        if not math.isfinite(float(norm)):
            return None
        self.optimizer.step()
        self.step += 1
        return value

    def step_back(self, number: int) -> bool:
        """To the best state, at half the rate; False where that was tried often enough."""
        self.setbacks.append(number)
        self.best.restore()
        self.factor /= 2
        self.step = number * self.per_epoch  # the schedule goes on behind the epoch
        self.optimizer = _adamw(self.parameters, self.recipe.weight_decay)
        if self.setbacks[-PATIENCE:] == list(range(number - PATIENCE + 1, number + 1)):
            self.diverged = number
        return self.diverged is None

    def validate(self, lesson: Lesson[Batch], number: int) -> bool:
        """Score the module and offer its state as the best; False where it is a setback."""
        self.module.zero_grad(set_to_none=True)
        self.module.eval()
        # running averages trail behind the weights
        if number and lesson.seen and self.recipe.batch_statistics:
            reestimate(self.module, lesson.seen)
        with torch.no_grad():
            score = lesson.validate(self.module)
        self.best.offer(score, number)
        self.score = score if isinstance(score, tuple) else (score,)
        if number == 0:
            self.start = self.score
        else:
            self.history.append(Epoch(number, self.mean, self.score))
        self._tell(max(number, 1))
        return not self._is_setback()

    def _is_setback(self) -> bool:
        """Whether the score is not finite, or below the middle between start and best."""
        if not all(map(math.isfinite, self.score)):
            return True
        first, best = self.start[0], self.best.score
        return best is not None and math.isfinite(first) and self.score[0] < (first + best[0]) / 2

    def _tell(self, epoch: int) -> None:
        self.progress(
            Moment(self.step, self.steps, epoch, self.recipe.epochs, self.mean, self.score)
        )

    def result(self) -> TrainingResult:
        if self.best.score is None:
            raise CompresscError(
                "CC502",
                "training must reach a finite score",
                got=f"none in {len(self.history)} epochs",
                hint="lower the learning rate, and check the model and the data",
            )
        return TrainingResult(
            start=self.start,
            best=self.best.score,
            best_epoch=self.best.epoch,
            history=tuple(self.history),
            rate=self.learning_rate,
            setbacks=tuple(self.setbacks),
            diverged=self.diverged,
        )


def _adamw(parameters: list[nn.Parameter], weight_decay: float) -> torch.optim.Optimizer:
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]])


@contextmanager
def _seeded(seed: int, parameters: list[nn.Parameter]) -> Iterator[None]:
    """Global generators at `seed` inside, as they were outside."""
    devices = sorted({p.device.index or 0 for p in parameters if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
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
