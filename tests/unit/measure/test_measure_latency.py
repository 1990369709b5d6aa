"""Latency: pairing, interleaving, repeats; with a clock of our own, so that it cannot flake."""

import gc

import pytest

from compressc.measure import Spread, latency, measure_latency, speedup


class Clock:
    """A clock that only moves when a callable says how long it took."""

    def __init__(self) -> None:
        self.now, self.calls = 1_000, []

    def __call__(self) -> int:
        return self.now

    def run(self, name: str, milliseconds: float):
        def call() -> None:
            self.calls.append(name)
            self.now += round(milliseconds * 1e6)

        return call


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(latency, "perf_counter_ns", made)
    return made


def test_times_are_per_call_and_repeats_reach_the_least_duration(clock):
    runs = {"slow": clock.run("slow", 5), "fast": clock.run("fast", 0.125)}
    found = measure_latency(runs, rounds=4, warmup=2, min_time_s=0.002)
    assert list(found) == ["slow", "fast"]
    assert found["slow"].samples == (5.0,) * 4
    assert found["fast"].median_ms == pytest.approx(0.125, rel=1e-12)
    per_round = clock.calls.count("fast") // 4
    assert per_round * 0.125 >= 2  # at least 2 ms for each sample
    assert clock.calls.count("slow") == 2 + 1 + 4  # warm-up, calibration, rounds


def test_rounds_are_interleaved_and_their_order_is_shuffled_by_the_seed(clock):
    def orders(seed: int) -> list[str]:
        clock.calls.clear()
        names = "abc"
        measure_latency({n: clock.run(n, 5) for n in names}, rounds=20, warmup=0, seed=seed)
        timed = clock.calls[len(names) :]  # after the calibration
        rounds = ["".join(timed[i : i + 3]) for i in range(0, len(timed), 3)]
        assert all(sorted(r) == list(names) for r in rounds)
        return rounds

    assert len(set(orders(0))) >= 4
    assert orders(0) == orders(0)
    assert orders(0) != orders(1)


def test_drift_cancels_in_paired_ratios(clock):
    # the machine slows down from 1x to 9x, both callables alike: the ratio stays 2
    def drifting(name: str, milliseconds: float):
        def call() -> None:
            clock.calls.append(name)
            done = max(0, len(clock.calls) - 3) // 2
            clock.now += round(milliseconds * (1 + done) * 1e6)

        return call

    found = measure_latency({"a": drifting("a", 4), "b": drifting("b", 2)}, rounds=9, warmup=0)
    ratio = speedup(found["a"].samples, found["b"].samples)
    assert (ratio.low, ratio.median, ratio.high) == (2, 2, 2)
    assert found["a"].high_ms > 3 * found["a"].low_ms


def test_spread_and_speedup_by_hand():
    spread = Spread.of([float(i) for i in range(11)])  # 0..10
    assert (spread.low_ms, spread.median_ms, spread.high_ms) == (1, 5, 9)
    assert Spread.of([3.0]).high_ms == 3
    ratio = speedup([2, 6, 20], [1, 2, 4])  # 2, 3, 5
    assert ratio.median == 3
    assert ratio.low == pytest.approx(2.2)
    assert ratio.high == pytest.approx(4.6)


def test_garbage_collector_is_off_while_timing_and_back_after_an_error():
    seen = []
    measure_latency({"a": lambda: seen.append(gc.isenabled())}, rounds=1, min_time_s=1e-6)
    assert not any(seen)
    assert gc.isenabled()

    with pytest.raises(ZeroDivisionError):
        measure_latency({"a": lambda: 1 / 0}, rounds=1)
    assert gc.isenabled()
    gc.disable()
    try:
        measure_latency({"a": lambda: None}, rounds=1, min_time_s=1e-6)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_real_clock():
    found = measure_latency(
        {"long": lambda: sum(range(20_000)), "short": lambda: sum(range(1_000))}, rounds=15
    )
    assert speedup(found["long"].samples, found["short"].samples).median > 4


def test_mistakes_of_the_caller():
    with pytest.raises(ValueError, match="rounds"):
        measure_latency({}, rounds=0)
    with pytest.raises(ValueError, match="pairs"):
        speedup([1.0], [])
    with pytest.raises(ValueError, match="pairs"):
        speedup([], [])
