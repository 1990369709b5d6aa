"""What the user hears of a distillation, while it goes on and afterwards."""

from __future__ import annotations

from compressc.distillation import Teaching
from compressc.events import Event
from compressc.pipeline import Context
from compressc.training import Hooks, Moment, TrainingResult


class Told(Hooks):
    """Passes on to the run what happens in training."""

    def __init__(self, ctx: Context, score: str) -> None:
        self.ctx, self.score = ctx, score
        self.epochs = self.steps = 0

    def stepped(self, moment: Moment) -> None:
        """Progress: where it is, the loss and its terms, and the last score."""
        self.epochs, self.steps = moment.epochs, moment.steps
        what = f"distill epoch {moment.epoch}/{moment.epochs}"
        self.ctx.progress(what, moment.step, moment.steps, **self._figures(moment))

    def validated(self, moment: Moment) -> None:
        """An epoch is scored, or the start."""
        if moment.step:
            place = {"epoch": moment.epoch, "epochs": moment.epochs, "step": moment.step}
            self.ctx.tell(Event("epoch", place | self._figures(moment)))
        self.stepped(moment)

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
    lines = [text]
    if result.setbacks:
        places = ", ".join(map(str, result.setbacks))
        lines.append(f"went back to the best state and halved the rate after epoch {places}")
    if result.diverged:
        lines[-1] += f"; training diverged in epoch {result.diverged}"
    if exam.metric.no_better(result.best[1], exam.constant):
        lines.append(f"not recovered: a constant answer has {name} {exam.constant:.4f}, too")
    return lines
