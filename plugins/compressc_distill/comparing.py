"""Whether the teacher was worth it: the same student without one, and what the two scores show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from compressc.tasks import Metric

#: Stretches of the held-out samples, each scored by itself.
STRETCHES = 8
#: Standard errors that a difference must have to be one.
SURE = 2.0


@dataclass(frozen=True)
class Comparison:
    """Scores of one student taught in two ways, on the same samples.

    Attributes:
        metric: what was scored.
        taught: with the teacher, on each stretch of the samples.
        alone: by the labels alone, on the same ones.
    """

    metric: Metric
    taught: Sequence[float]
    alone: Sequence[float]

    @classmethod
    def of(cls, metric: Metric, taught: Sequence[float], alone: Sequence[float]) -> Comparison:
        """Of the stretches that could be scored: one without a label has no score."""
        both = [p for p in zip(taught, alone, strict=True) if all(map(math.isfinite, p))]
        return cls(metric, [a for a, _ in both], [b for _, b in both])

    @property
    def gain(self) -> float:
        """By how much the teacher makes the score better; negative where it makes it worse."""
        if not self.taught:
            return 0.0
        sign = 1 if self.metric.better == "higher" else -1
        return sign * (mean(self.taught) - mean(self.alone))

    @property
    def spread(self) -> float:
        """Standard error of the gain: the stretches are paired."""
        gains = [a - b for a, b in zip(self.taught, self.alone, strict=True)]
        return stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.inf

    @property
    def verdict(self) -> str:
        """`helps`, `hurts`, or `no difference` that these samples can show."""
        if not abs(self.gain) > SURE * self.spread:
            return "no difference"
        return "helps" if self.gain > 0 else "hurts"

    @property
    def figures(self) -> dict[str, object]:
        """For programs."""
        scores = {"taught": list(self.taught), "alone": list(self.alone)}
        gain = {"gain": self.gain, "spread": self.spread, "verdict": self.verdict}
        return {"metric": self.metric.name} | scores | gain

    @property
    def student_above(self) -> str:
        """What is said where `taught` are a student's scores, `alone` its teacher's, and the
        student's are surely the better ones; else nothing."""
        if self.verdict != "helps":
            return ""
        scores = f"{mean(self.taught):.4f} is better than its {mean(self.alone):.4f}"
        on = f"on the held-out samples, ± {self.spread:.4f}"
        text = f"a weak teacher: the student's {self.metric.title} {scores} {on}"
        return f"{text}; give the labels more weight (alpha), or distill(trust=labels)"

    def __str__(self) -> str:
        """One line for the report."""
        says = {
            "helps": "the teacher helps",
            "hurts": "the teacher hurts: train by the labels with distill(loss=ce)",
            "no difference": "the teacher makes no difference that these samples can show",
        }[self.verdict]
        scores = f"{mean(self.taught):.4f} with it, {mean(self.alone):.4f} by the labels alone"
        return f"{says}: {self.metric.title} {scores}, difference ± {self.spread:.4f}"
