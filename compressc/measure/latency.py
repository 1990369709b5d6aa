"""Latency of several callables side by side, so that their ratio means something.

Clocks drift, neighbours come and go: two models timed one after the other differ by more than the
models do. So each round times every callable once, in an order shuffled anew, and speed-ups are
medians of the ratios within a round.
"""

from __future__ import annotations

import gc
import math
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from time import perf_counter_ns
from types import TracebackType

import numpy as np
from pydantic import BaseModel, ConfigDict

#: Growth of the repeat count in one step of the calibration: a first call can be misleading.
GROWTH = 8


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

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """The spread of samples in milliseconds, at least one."""
        low, median, high = _percentiles(samples)
        return cls(median_ms=median, low_ms=low, high_ms=high, samples=tuple(samples))


class Speedup(BaseModel):
    """Ratio of two latencies; above 1 the second is faster."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    median: float
    #: 10th percentile.
    low: float
    #: 90th percentile.
    high: float


def measure_latency(
    runs: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 30,
    warmup: int = 3,
    min_time_s: float = 0.002,
    seed: int = 0,
) -> dict[str, Spread]:
    """Time callables in interleaved rounds.

    A sample is the mean time of as many calls in a row as last `min_time_s` together, counted out
    beforehand; so a short call is not drowned by the clock's resolution. The garbage collector is
    off meanwhile. The number of threads is the caller's to set and to record.

    Args:
        runs: name to callable; a callable must wait for its own result (devices are not
            synchronised here).
        rounds: samples of each callable, at least 1.
        warmup: calls of each callable before the first sample; not timed.
        min_time_s: least duration of a sample, in seconds.
        seed: of the order within the rounds.

    Returns:
        A `Spread` for each name, in the order of `runs`. What a callable raises goes through.
    """
    if rounds < 1 or warmup < 0:
        raise ValueError(f"rounds is at least 1 and warmup at least 0, not {rounds} and {warmup}")
    shuffle = random.Random(seed).shuffle
    samples: dict[str, list[float]] = {name: [] for name in runs}
    with _NoGarbageCollection():
        repeats = {}
        for name, run in runs.items():
            for _ in range(warmup):
                run()
            repeats[name] = _calibrate(run, min_time_s)
        order = list(runs)
        for _ in range(rounds):
            shuffle(order)
            for name in order:
                seconds = _time(runs[name], repeats[name])
                samples[name].append(seconds / repeats[name] * 1e3)
    return {name: Spread.of(values) for name, values in samples.items()}


def speedup(a: Sequence[float], b: Sequence[float]) -> Speedup:
    """How many times faster `b` is than `a`: spread of the ratios `a[i] / b[i]`.

    Args:
        a: latencies of the slower one (the teacher), round by round: `Spread.samples`.
        b: latencies of the other, of the same rounds.
    """
    if len(a) != len(b) or not a:
        raise ValueError(f"pairs need as many samples on both sides, not {len(a)} and {len(b)}")
    low, median, high = _percentiles([x / y for x, y in zip(a, b, strict=True)])
    return Speedup(median=median, low=low, high=high)


def _percentiles(values: Sequence[float]) -> tuple[float, float, float]:
    low, median, high = np.quantile(np.asarray(values, np.float64), [0.1, 0.5, 0.9])
    return float(low), float(median), float(high)


def _time(run: Callable[[], object], repeats: int) -> float:
    start = perf_counter_ns()
    for _ in range(repeats):
        run()
    # never 0: a ratio is taken of it
    return max(perf_counter_ns() - start, 1) / 1e9


def _calibrate(run: Callable[[], object], min_time_s: float) -> int:
    repeats = 1
    while (seconds := _time(run, repeats)) < min_time_s:
        repeats = min(math.ceil(repeats * 1.2 * min_time_s / seconds), repeats * GROWTH)
    return repeats


class _NoGarbageCollection(AbstractContextManager[None]):
    """A collection in the middle of a sample would be charged to whoever runs just then."""

    def __enter__(self) -> None:
        self._was_on = gc.isenabled()
        gc.collect()
        gc.disable()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._was_on:
            gc.enable()
