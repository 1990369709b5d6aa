"""What a score is called, which way is better, and what it is held against."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict


class Metric(BaseModel):
    """A score by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: As in `Record`: accuracy, miou, agreement, r2, perplexity, ...
    name: str
    #: As the head of a column.
    title: str
    #: Shares are shown in per cent.
    unit: Literal["%", ""] = ""
    #: What the output is held against.
    against: Literal["labels", "teacher"] = "labels"
    better: Literal["higher", "lower"] = "higher"
    #: How a loss is counted: in points where 1 is perfect, else as a share of the teacher's.
    drop: Literal["points", "relative"] = "points"
    #: What it counts, for the report.
    text: str

    def lost(self, before: float | None, after: float | None) -> float:
        """How much worse a score is than before, as `drop` counts it; negative where it is better.

        Infinite where a figure is missing or no number.
        """
        if before is None or after is None or not math.isfinite(before - after):
            return math.inf
        points = before - after if self.better == "higher" else after - before
        if self.drop == "points" or not points:
            return points
        return points / abs(before) if before else math.copysign(math.inf, points)

    def no_better(self, value: float, than: float) -> bool:
        """Whether a score is as good as another, or worse; never where one is no number."""
        return value <= than if self.better == "higher" else value >= than


ACCURACY = Metric(name="accuracy", title="accuracy", unit="%", text="share of labels met")
BALANCED = Metric(
    name="balanced_accuracy",
    title="balanced",
    unit="%",
    text="mean over the classes of the share of labels met",
)
MIOU = Metric(
    name="miou",
    title="mIoU",
    unit="%",
    text="mean over the classes of intersection over union",
)
F1 = Metric(
    name="f1",
    title="F1",
    unit="%",
    text="harmonic mean of precision and recall over all answers of yes",
)
R2 = Metric(name="r2", title="R^2", text="share of the variance of the labels explained")
MAE = Metric(
    name="mae",
    title="mean error",
    better="lower",
    drop="relative",
    text="mean absolute difference from the labels, in their unit",
)
PERPLEXITY = Metric(
    name="perplexity",
    title="perplexity",
    better="lower",
    drop="relative",
    text="exp of the mean negative log likelihood over all tokens",
)
TEACHER_R2 = Metric(
    name="teacher_r2",
    title="R^2 to teacher",
    against="teacher",
    text="share of the variance of the teacher's answers explained",
)
COSINE = Metric(
    name="cosine",
    title="cosine",
    against="teacher",
    text="mean cosine of the angle to the teacher's vectors",
)
RETRIEVAL = Metric(
    name="retrieval",
    title="retrieval",
    unit="%",
    against="teacher",
    text="share of vectors whose nearest other is the teacher's",
)


def _agreement(what: str) -> Metric:
    return Metric(name="agreement", title="agreement", unit="%", against="teacher", text=what)


#: By the kind of the judged output.
AGREEMENT: dict[str, Metric] = {
    "class_scores": _agreement("share of rows with the teacher's class"),
    "independent_scores": _agreement("share of numbers on the teacher's side of the threshold"),
    "values": _agreement("share of numbers with the teacher's sign"),
    "ids": _agreement("share of the teacher's integers met"),
}

#: Scores that count how likely the right answer is found, and not whether it is the best alone.
LIKELIHOODS = frozenset({PERPLEXITY.name})
