"""What exits cost and save, by the threshold that samples leave at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from compressc.distillation import Answers
from compressc.tasks import Metric, Scoring, SettledTask
from compressc_distill.families.exits.costs import Times

#: Points of a curve at most.
MOST = 48
#: Shares that are nearer to one another are no place for a threshold: runtimes round otherwise.
GAP = 1e-5


@dataclass
class Held:
    """Class scores of every exit and of the output for samples, batch by batch.

    Attributes:
        task: what is judged.
        batches: (class scores `[b, c]` of each exit and of the output behind them, targets).
    """

    task: SettledTask
    batches: list[tuple[list[Tensor], Any]] = field(default_factory=list)

    def add(self, answers: Answers, targets: Any) -> None:
        """Take the answers to a batch: features are the exits."""
        scores = [x.float().cpu() for x in (*answers.features, answers.learned[0])]
        self.batches.append((scores, targets if self._plain.labels else None))

    @property
    def _plain(self) -> SettledTask:
        return self.task.of_values()

    @property
    def metric(self) -> Metric:
        """The score: by labels, or against the output where there are none."""
        return Scoring(self._plain).metrics[0]

    @property
    def heads(self) -> int:
        """How many exits there are."""
        return len(self.batches[0][0]) - 1

    @property
    def samples(self) -> int:
        """How many there are."""
        return sum(len(scores[-1]) for scores, _ in self.batches)

    def of(self, place: int) -> list[Tensor]:
        """Class scores of an exit, or of the output behind the last one, batch by batch."""
        return [scores[place] for scores, _ in self.batches]

    def score(self, answers: Sequence[Tensor]) -> float:
        """What class scores are worth, batch by batch."""
        scoring, read = Scoring(self._plain), self.task.read_values
        for ours, (scores, targets) in zip(answers, self.batches, strict=True):
            scoring.update(read([ours]), targets, read([scores[-1]]))
        return scoring.values().get(self.metric.name, 0.0)

    def sure(self) -> Tensor:
        """The share of the best class at each exit, f32[exits, n]."""
        each = [torch.cat(self.of(place)).softmax(-1).amax(-1) for place in range(self.heads)]
        return torch.stack(each)

    def taken(self, leaves: Tensor) -> list[Tensor]:
        """Class scores of the exit that each sample leaves at, i64[n], batch by batch."""
        sizes = [len(scores[-1]) for scores, _ in self.batches]
        return [
            torch.stack(scores)[place, torch.arange(len(place))]
            for place, (scores, _) in zip(
                torch.split_with_sizes(leaves, sizes), self.batches, strict=True
            )
        ]


@dataclass(frozen=True)
class Point:
    """What becomes of the held-out samples at a threshold.

    Attributes:
        threshold: least share of the best class that a sample leaves at.
        score: of what is answered then.
        lost: as `Metric.lost` counts it, beside the output alone.
        shares: of the samples that leave at each exit, and that see the output.
        macs: multiply-accumulates of a sample, on average.
        ms: milliseconds of a sample, on average; None where nothing was timed.
    """

    threshold: float
    score: float
    lost: float
    shares: list[float]
    macs: float
    ms: float | None


@dataclass(frozen=True)
class Curve:
    """The score by threshold.

    Attributes:
        held: answers to the held-out samples.
        macs: multiply-accumulates up to each exit and to the output, and without any exit.
        times: of the same.
        points: from the least threshold on.
    """

    held: Held
    macs: tuple[list[int], int]
    times: Times | None
    points: tuple[Point, ...] = ()

    @classmethod
    def of(cls, held: Held, macs: tuple[list[int], int], times: Times | None) -> Curve:
        """Measure it, between the shares that samples have."""
        bare = cls(held, macs, times)
        points = tuple(bare.at(threshold) for threshold in _thresholds(held.sure()))
        return cls(held, macs, times, points)

    def at(self, threshold: float) -> Point:
        """What becomes of the samples at any threshold."""
        held, count = self.held, self.held.heads
        sure = torch.cat([held.sure() >= threshold, torch.ones(1, held.samples, dtype=torch.bool)])
        leaves = sure.int().argmax(0)
        shares = (torch.bincount(leaves, minlength=count + 1) / held.samples).tolist()
        score = held.score(held.taken(leaves))
        lost = held.metric.lost(held.score(held.of(count)), score)
        ms = None if self.times is None else _mean(shares, self.times.up_to)
        return Point(threshold, score, lost, shares, _mean(shares, self.macs[0]), ms)

    @property
    def told_apart(self) -> float:
        """The least loss on other samples that these can vouch for, where none of them is lost."""
        return self._foretold(0.0)

    def _foretold(self, lost: float) -> float:
        """What other samples lose on average at most: one more was lost, beside the held-out ones.

        Conformal risk control, Angelopoulos et al. 2022, arXiv 2208.02814, where a sample loses 1
        at most; on average over what might have been held out.
        """
        count = self.held.samples
        return (count * lost + 1) / (count + 1)

    def choose(self, max_drop: float) -> Point | None:
        """The least threshold that is foretold to lose no more on other samples, as all above it.

        None where nobody leaves.
        """
        chosen = None
        for point in reversed(self.points):
            if self._foretold(point.lost) > max_drop + 1e-9:
                break
            chosen = point
        return chosen if chosen is not None and chosen.shares[-1] < 1 else None

    def each(self) -> Iterator[tuple[str, int]]:
        """What each exit scores by itself, in words, and on how many samples."""
        held = self.held
        for place in range(held.heads):
            yield f"{held.metric.title} {held.score(held.of(place)):.4f}", held.samples

    def told(self, point: Point) -> Iterator[str]:
        """What a threshold means, in words."""
        held, (_, plain) = self.held, self.macs
        leave = ", ".join(f"{share:.0%}" for share in point.shares)
        title, output = held.metric.title, held.score(held.of(held.heads))
        yield (
            f"samples leave where the best class has {point.threshold:.4f}: {leave} at each exit "
            f"and at the output, {title} {point.score:.4f} in place of {output:.4f} on "
            f"{held.samples} held-out samples"
        )
        spent = f"{point.macs / max(plain, 1):.0%} of the multiply-accumulates"
        if self.times is None or point.ms is None:
            yield f"a sample takes {spent} on average"
        else:
            times = f"{point.ms:.3f} ms in place of {self.times.without:.3f} ms"
            yield f"a sample takes {spent} and {times} in {self.times.runtime} on average"

    def record(self, places: Sequence[str], chosen: Point | None) -> dict[str, Any]:
        """For programs, and for the report's picture."""
        held, times = self.held, self.times
        without = {
            "score": held.score(held.of(held.heads)),
            "macs": self.macs[1],
            "ms": None if times is None else times.without,
        }
        return {
            "metric": held.metric.name,
            "title": held.metric.title,
            "samples": held.samples,
            "places": list(places),
            "runtime": None if times is None else times.runtime,
            "without": without,
            "chosen": None if chosen is None else asdict(chosen),
            "curve": [asdict(point) for point in self.points],
        }


def _thresholds(sure: Tensor) -> list[float]:
    """Between neighbouring shares, evenly spread over them, and above all of them."""
    values = sorted(set(sure.flatten().double().tolist()))
    gaps = [(a + b) / 2 for a, b in pairwise(values) if b - a > GAP]
    gaps = [values[0] - GAP, *gaps, *([values[-1] + GAP] if values[-1] + GAP < 1 else [])]
    if len(gaps) <= MOST:
        return gaps
    return [gaps[i * (len(gaps) - 1) // (MOST - 1)] for i in range(MOST)]


def _mean(shares: Sequence[float], values: Sequence[float]) -> float:
    return sum(share * value for share, value in zip(shares, values, strict=True))
