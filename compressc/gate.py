"""What a run must keep: checked before any work where that can be, and judged at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressc.errors import CompresscError

if TYPE_CHECKING:
    from compressc.report import Record
    from compressc.tasks import Metric, SettledTask


@dataclass(frozen=True)
class Gate:
    """What is demanded of a run.

    Attributes:
        max_drop: how much of the score that matters most each file may lose, in 0..1. Scores that
            are 1 where they are perfect (accuracy, mIoU, R^2) lose points: of the teacher's own, or
            of 1 where it is a likeness to the teacher. Others (perplexity) may get worse by that
            share of the teacher's. None demands nothing.
        strict: whether a pass that was asked for must have changed something.
    """

    max_drop: float | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no share, NaN too.

        Raises:
            CompresscError: CC100.
        """
        if self.max_drop is not None and not 0 <= self.max_drop <= 1:
            raise CompresscError("CC100", "--max-drop is a share, 0 to 1", got=str(self.max_drop))

    def require_score(self, task: SettledTask | None, labelled: bool = False) -> None:
        """Refuse a gate that could never be judged, before any pass runs.

        Args:
            task: what is judged; None where there are no data.
            labelled: whether the data have labels, which the user then means by a drop.

        Raises:
            CompresscError: CC105 where nothing can be scored, or the labels cannot be used.
        """
        if self.max_drop is None:
            return
        if task is None:
            raise CompresscError(
                "CC105", "--max-drop needs data to score the files on", hint="give --data"
            )
        if labelled and not task.labels:
            raise CompresscError(
                "CC105",
                "--max-drop needs labels that can be used",
                got=(*task.warnings, task.reason)[0],
                hint="mend the labels, or leave them out to gate on the likeness to the teacher",
            )

    def judge(self, record: Record) -> None:
        """Hold a finished run against what is demanded; its files stay.

        Raises:
            CompresscError: CC505 naming the file that lost most, CC700 naming what was asked for
                and did not come about.
        """
        if self.max_drop is not None:
            self._judge_score(record, self.max_drop)
        missing = [f"{f.stage}: {f.message}" for f in record.failures]
        if self.strict:
            missing += [f"pass {p.text}: it changed nothing" for p in record.passes if p.idle]
        if missing:
            more = f"; and {len(missing) - 1} more, see the report" if len(missing) > 1 else ""
            raise CompresscError(
                "CC700", "all that was asked for must come about", got=missing[0] + more
            )

    def _judge_score(self, record: Record, most: float) -> None:
        """Fail closed: a file without a figure, or that could not be written, has not passed."""
        lost = next((f for f in record.failures if f.stage.startswith("backend ")), None)
        if lost is not None or not record.files:
            got = f"{lost.stage}: {lost.message}" if lost else "no file"
            raise CompresscError("CC505", "every file must be there to be judged", got=got)
        metric = None if record.task is None else record.task.primary
        if metric is None:
            raise CompresscError("CC505", "every file must have a score", got="none")
        before = 1.0 if metric.against == "teacher" else record.teacher.scores.get(metric.name)
        drops = [(metric.lost(before, f.scores.get(metric.name)), f) for f in record.files]
        drop, worst = max(drops, key=lambda pair: pair[0])
        # of counts, so a difference of floats is off by rounding: 0.9 - 0.6 is above 0.3
        if drop <= most + 1e-9:
            return
        others = sum(d > most + 1e-9 for d, _ in drops) - 1
        more = f", and of {others} other files" if others else ""
        raise CompresscError(
            "CC505",
            f"{metric.title} may {_fall(metric)} {most:g}{_of(metric)}",
            got=f"{drop:.4f}: {_figure(before)} to {_figure(worst.scores.get(metric.name))}{more}",
            where=worst.path,
            hint="the files are written; distill longer or prune less",
        )


def _fall(metric: Metric) -> str:
    return "drop by" if metric.better == "higher" else "rise by"


def _of(metric: Metric) -> str:
    return " of the teacher's" if metric.drop == "relative" else ""


def _figure(value: float | None) -> str:
    return "no figure" if value is None else f"{value:.4f}"
