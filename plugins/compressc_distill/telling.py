"""What the user hears of a distillation, while it goes on and afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from compressc.distillation import Teaching
from compressc.events import Event
from compressc.pipeline import Context
from compressc.training import Epoch, Hooks, Moment, TrainingResult, share_of, zeros_of


class Told(Hooks):
    """Passes on to the run what happens in training.

    Args:
        ctx: of the pass.
        score: what is scored.
        samples: in a step.
        clock: seconds from any moment on, for tests.
        name: of the pass.
    """

    def __init__(
        self,
        ctx: Context,
        score: str,
        samples: int,
        clock: Callable[[], float] = time.perf_counter,
        name: str = "distill",
    ) -> None:
        self.ctx, self.score, self.samples, self.clock = ctx, score, samples, clock
        self.name = name
        self._began: tuple[float, int] | None = None

    def stepped(self, moment: Moment) -> None:
        """Progress: where it is, the loss and its terms, and the last score."""
        what = f"{self.name} epoch {moment.epoch}/{moment.epochs}"
        facts = self._figures(moment) | self._pace(moment)
        self.ctx.progress(what, moment.step, moment.steps, **facts)

    def validated(self, moment: Moment) -> None:
        """An epoch is scored, or the start."""
        if moment.step:
            place = {"epoch": moment.epoch, "epochs": moment.epochs, "step": moment.step}
            self.ctx.tell(Event("epoch", place | self._figures(moment)))
        self.stepped(moment)

    def _pace(self, moment: Moment) -> dict[str, float]:
        """Since the first step that this process saw, validations in between among it."""
        now = self.clock()
        if self._began is None:
            self._began = now, moment.step
        start, first = self._began
        if moment.step <= first or now <= start:
            return {}
        pace = (moment.step - first) / (now - start)
        left = (moment.steps - moment.step) / pace
        return {"samples_per_second": pace * self.samples, "seconds_left": left}

    def _figures(self, moment: Moment) -> dict[str, dict[str, float]]:
        losses = {"loss": moment.loss, **moment.terms, "held-out loss": -moment.score[0]}
        return {"losses": losses, "scores": {self.score: moment.score[1]}}


def summary(result: TrainingResult, exam: Teaching) -> list[str]:
    """Lines for the report: what was kept, how it does on the samples held out, and setbacks."""
    name = exam.metric.title
    before, after = (f"loss {-s[0]:.4f}, {name} {s[1]:.4f}" for s in (result.start, result.best))
    epochs, samples = len(result.history), len(exam.samples)
    if result.best_epoch:
        text = f"kept epoch {result.best_epoch} of {epochs}: {after} on {samples} held-out samples"
        text += f", before training {before}"
    else:
        text = (
            f"no epoch of {epochs} was better than the start ({before}): weights left as they were"
        )
    lines = [text, *_terms(result.history)]
    if result.setbacks:
        places = ", ".join(map(str, result.setbacks))
        lines.append(f"went back to the best state and halved the rate after epoch {places}")
    if result.diverged:
        lines[-1] += f"; training diverged in epoch {result.diverged}"
    if exam.metric.no_better(result.best[1], exam.constant):
        lines.append(f"not recovered: a constant answer has {name} {exam.constant:.4f}, too")
    return lines


def kept_zeros(module: nn.Module) -> Iterator[str]:
    """What is said of sparse weights, where there are any."""
    found = zeros_of(module.parameters()).values()
    if found:
        share = share_of(torch.cat([where.flatten() for where in found]))
        name = "weight" if len(found) == 1 else "weights"
        yield f"{share:.0%} of {len(found)} sparse {name} stay zero; zeros=train moves them"


def _terms(history: Sequence[Epoch]) -> Iterator[str]:
    """How each term of the loss fell."""
    if not history or not history[-1].terms:
        return
    first, last = history[0], history[-1]
    parts = [f"{name} {first.terms[name]:.4g}" for name in last.terms]
    if last is not first:
        parts = [
            f"{part} -> {last.terms[name]:.4g}"
            for part, name in zip(parts, last.terms, strict=True)
        ]
    where = f"epochs {first.number} and {last.number}" if last is not first else "epoch 1"
    yield f"terms of the loss before their weights, means of {where}: {', '.join(parts)}"
