"""Latency of several callables side by side, so that their ratio means something.

Clocks drift, neighbours come and go: two models timed one after the other differ by more than the
models do. So each round times every callable once, in an order shuffled anew. CPU time beside wall
time tells which samples were pre-empted: their rounds are taken again, up to a budget. The rounds
fall into blocks; a speed-up is the median over them of the ratio of the fastest samples, which
repeats where ratios of single samples do not, and is claimed only where its range allows it.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Mapping, Sequence
from statistics import geometric_mean
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from compressc.collecting import collector_paused
from compressc.measure.layer_times import Clock, calibrate, calmest, system_clock, take_rounds

#: Rounds that a ratio needs: 7 pairs of equal callables all on one side are a chance of 1 in 64.
LEAST_ROUNDS = 7
#: Rounds of a block, whose fastest samples make one ratio.
BLOCK = 3
#: Two copies of one model differ by a few percent for as long as they live, by where their memory
#: lies. What is not further from 1 than this is no difference.
RESOLUTION = 1.05
#: Where the 90th percentile of the ratios is so many times the 10th, neighbours decide the ratio.
WIDE = 2.0

#: What a ratio is worth: `same` is no difference measured, `busy` a machine without time for it.
Verdict = Literal["faster", "slower", "same", "busy"]


class Spread(BaseModel):
    """Latency of one callable, in milliseconds per call."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    median_ms: float
    #: 10th percentile.
    low_ms: float
    #: 90th percentile.
    high_ms: float
    #: One for each round, in the order of the rounds: entry i of two callables forms a pair.
    samples: tuple[float, ...]
    #: How many lie in a round with a pre-empted sample: kept where the budget brought no better.
    disturbed: int = 0

    @classmethod
    def of(cls, samples: Sequence[float], disturbed: int = 0) -> Spread:
        """The spread of samples in milliseconds, at least one."""
        low, median, high = _percentiles(samples)
        return cls(
            median_ms=median,
            low_ms=low,
            high_ms=high,
            samples=tuple(samples),
            disturbed=disturbed,
        )


class Speedup(BaseModel):
    """Ratio of two latencies; above 1 the second is faster."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Median of the ratios of the fastest samples, one ratio for each block of rounds.
    ratio: float
    #: 10th percentile.
    low: float
    #: 90th percentile.
    high: float
    verdict: Verdict


def measure_latency(  # noqa: PLR0913  (how to measure; each has a default)
    runs: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 30,
    warmup: int = 3,
    min_time_s: float = 0.002,
    budget_s: float = 4.0,
    threads: int = 1,
    seed: int = 0,
    clock: Clock = system_clock,
) -> dict[str, Spread]:
    """Time callables in interleaved rounds.

    A sample is the mean time of as many calls in a row as last `min_time_s` together, counted out
    beforehand; so a short call is not drowned by the clock's resolution. The garbage collector is
    off meanwhile. A round with a pre-empted sample is taken again while the budget lasts.

    Args:
        runs: name to callable; a callable must compute on the CPU and wait for its own result.
        rounds: undisturbed samples of each callable, at least 1.
        warmup: calls of each callable before the first sample; not timed.
        min_time_s: least duration of a sample, in seconds.
        budget_s: seconds after which no further round is begun, once `LEAST_ROUNDS` are taken.
        threads: threads that a callable may use; the caller sets and records them.
        seed: of the order within the rounds.
        clock: tells wall and CPU time.

    Returns:
        A `Spread` for each name, in the order of `runs`. What a callable raises goes through.
    """
    if rounds < 1 or warmup < 0:
        raise ValueError(f"rounds is at least 1 and warmup at least 0, not {rounds} and {warmup}")
    least = min(rounds, LEAST_ROUNDS)
    gc.collect()  # one in the middle of a sample would be charged to whoever runs just then
    with collector_paused():
        for run in runs.values():
            for _ in range(warmup):
                run()
        repeats = {name: calibrate(run, min_time_s, clock) for name, run in runs.items()}
        taken = take_rounds(
            runs,
            repeats,
            rounds=rounds,
            least=least,
            budget_s=budget_s,
            threads=threads,
            shuffle=random.Random(seed).shuffle,
            clock=clock,
        )
    places, disturbed = calmest(taken, threads, least)
    kept = [taken[place] for place in places]
    return {name: Spread.of([r[name].wall * 1e3 for r in kept], disturbed) for name in runs}


def speedup(a: Spread, b: Spread) -> Speedup:
    """How many times faster `b` is than `a`.

    Args:
        a: latency of the slower one (the teacher).
        b: latency of the other, of the same rounds.
    """
    return _speedup(_block_ratios(a.samples, b.samples), max(a.disturbed, b.disturbed))


def speedup_over(pairs: Sequence[tuple[Spread, Spread]]) -> Speedup:
    """How many times faster the second of each pair is, where every pair counts alike.

    The geometric mean over the pairs, block by block: twice as fast at one batch size and half as
    fast at another is no gain. Pairs that are not measurable are left out, unless all are.

    Args:
        pairs: latencies of two callables, as `speedup` takes them, each pair at another size of the
            work; at least one.
    """
    calm = [pair for pair in pairs if speedup(*pair).verdict != "busy"] or pairs
    blocks = [_block_ratios(a.samples, b.samples) for a, b in calm]
    means = [geometric_mean(ratios) for ratios in zip(*blocks, strict=False)]
    return _speedup(means, max(max(a.disturbed, b.disturbed) for a, b in calm))


def _speedup(ratios: Sequence[float], disturbed: int) -> Speedup:
    low, ratio, high = _percentiles(ratios)
    return Speedup(ratio=ratio, low=low, high=high, verdict=verdict_of(low, high, disturbed))


def _block_ratios(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """Ratios of the fastest samples of each block of rounds; few rounds are blocks of one."""
    if len(a) != len(b):
        raise ValueError(f"pairs need as many samples on both sides, not {len(a)} and {len(b)}")
    count = min(len(a), max(LEAST_ROUNDS, len(a) // BLOCK))
    blocks = np.array_split(np.arange(len(a)), count)
    return [min(a[i] for i in block) / min(b[i] for i in block) for block in blocks]


def verdict_of(low: float, high: float, disturbed: int = 0) -> Verdict:
    """What a ratio is worth.

    Were the two callables equal, each block would fall on either side of 1 like a coin: the chance
    that the 10th percentile of 7 lies above 1 is below 7 %, and that it lies above `RESOLUTION` is
    smaller still.

    Args:
        low: 10th percentile of the ratios.
        high: 90th percentile.
        disturbed: samples among them that were pre-empted.
    """
    if disturbed or high > WIDE * low:
        return "busy"
    if low > RESOLUTION:
        return "faster"
    return "slower" if high < 1 / RESOLUTION else "same"


def _percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    low, median, high = np.quantile(np.asarray(values, np.float64), [0.1, 0.5, 0.9])
    return float(low), float(median), float(high)
