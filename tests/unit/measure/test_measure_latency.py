"""Latency: pairing, interleaving, repeats; with a clock of our own, so that it cannot flake."""

import gc
import random

import pytest

from compressc.measure import Spread, measure_latency, speedup, speedup_over


class Clock:
    """A clock that only moves when a callable says how long it took, and how long it waited."""

    def __init__(self) -> None:
        self.wall, self.cpu, self.calls = 1_000, 500, []

    def __call__(self) -> tuple[int, int]:
        return self.wall, self.cpu

    def work(self, milliseconds: float, waited: float = 0.0) -> None:
        self.wall += round((milliseconds + waited) * 1e6)
        self.cpu += round(milliseconds * 1e6)

    def run(self, name: str, milliseconds: float):
        def call() -> None:
            self.calls.append(name)
            self.work(milliseconds)

        return call


@pytest.fixture
def clock():
    return Clock()


def test_times_are_per_call_and_repeats_reach_the_least_duration(clock):
    runs = {"slow": clock.run("slow", 5), "fast": clock.run("fast", 0.125)}
    found = measure_latency(runs, rounds=4, warmup=2, min_time_s=0.002, clock=clock)
    assert list(found) == ["slow", "fast"]
    assert found["slow"].samples == (5.0,) * 4
    assert found["fast"].median_ms == pytest.approx(0.125, rel=1e-12)
    per_round = clock.calls.count("fast") // 4
    assert per_round * 0.125 >= 2  # at least 2 ms for each sample
    assert clock.calls.count("slow") == 2 + 1 + 4  # warm-up, calibration, rounds


def test_a_call_that_was_pre_empted_does_not_say_how_long_calls_last(clock):
    waits = iter([9.0, 0.0, 5.0, 5.0])  # while repeats are counted out; nobody disturbs later

    def call() -> None:
        clock.calls.append("fast")
        clock.work(0.125, next(waits, 0.0))

    found = measure_latency({"fast": call}, rounds=4, warmup=0, min_time_s=0.002, clock=clock)
    assert found["fast"].samples == pytest.approx((0.125,) * 4)
    assert len(clock.calls) > 4 * 16  # 16 calls last 2 ms


def test_a_call_that_mostly_waits_ends_the_counting(clock):
    run = {"slow": lambda: clock.work(0.0, waited=9.0)}
    found = measure_latency(run, rounds=4, warmup=0, min_time_s=0.002, clock=clock)
    assert found["slow"].samples == pytest.approx((9.0,) * 4)


def test_rounds_are_interleaved_and_their_order_is_shuffled_by_the_seed(clock):
    def orders(seed: int) -> list[str]:
        clock.calls.clear()
        names = "abc"
        runs = {n: clock.run(n, 5) for n in names}
        measure_latency(runs, rounds=20, warmup=0, seed=seed, clock=clock)
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
            clock.work(milliseconds * (1 + done))

        return call

    runs = {"a": drifting("a", 4), "b": drifting("b", 2)}
    found = measure_latency(runs, rounds=9, warmup=0, clock=clock)
    ratio = speedup(found["a"], found["b"])
    assert (ratio.low, ratio.ratio, ratio.high) == (2, 2, 2)
    assert found["a"].high_ms > 3 * found["a"].low_ms


def test_spread_and_speedup_by_hand():
    spread = Spread.of([float(i) for i in range(11)])  # 0..10
    assert (spread.low_ms, spread.median_ms, spread.high_ms) == (1, 5, 9)
    assert Spread.of([3.0]).high_ms == 3
    ratio = speedup(Spread.of([2.2, 6, 20]), Spread.of([1, 2, 5]))  # pairs 2.2, 3, 4
    assert ratio.ratio == 3
    assert ratio.low == pytest.approx(2.36)
    assert ratio.high == pytest.approx(3.8)


@pytest.mark.parametrize(
    ("teacher", "result", "verdict"),
    [
        ([3.0, 3.1, 3.2], [1.0, 1.1, 1.2], "faster"),
        ([1.0, 1.1, 1.2], [3.0, 3.1, 3.2], "slower"),
        ([1.0, 1.1, 0.9], [1.0, 1.1, 0.9], "same"),
        ([1.2, 1.0, 1.1], [1.0, 1.1, 1.1], "same"),  # 1.2, 0.9, 1: on both sides of 1
        ([1.04] * 9, [1.0] * 9, "same"),  # two copies of one model may differ by so much
        ([1.06] * 9, [1.0] * 9, "faster"),
        ([1.0] * 9, [1.06] * 9, "slower"),
        ([2.0, 2.0, 9.0], [1.0, 1.0, 1.0], "busy"),  # 2 to 7.6
        ([1.2, 1.0, 1.3], [1.0, 0.8, 1.0], "faster"),
    ],
)
def test_what_a_ratio_is_worth(teacher, result, verdict):
    assert speedup(Spread.of(teacher), Spread.of(result)).verdict == verdict


def test_the_fastest_samples_of_each_block_are_compared():
    """30 rounds are 10 blocks of 3; one fast sample in each is enough."""
    teacher = Spread.of([4.0, 9.0, 30.0] * 10)
    result = Spread.of([50.0, 2.0, 7.0] * 10)  # the pairs: 0.08, 4.5, 4.3
    found = speedup(teacher, result)
    assert (found.low, found.ratio, found.high, found.verdict) == (2, 2, 2, "faster")
    # half of the blocks are slow in the result: 2 or 1
    mixed = speedup(teacher, Spread.of([50.0, 2.0, 7.0] * 5 + [50.0, 4.0, 7.0] * 5))
    assert (mixed.low, mixed.ratio, mixed.high, mixed.verdict) == (1, 1.5, 2, "same")


def test_a_ratio_of_disturbed_samples_claims_nothing():
    assert speedup(Spread.of([3.0] * 7), Spread.of([1.0] * 7)).verdict == "faster"
    assert speedup(Spread.of([3.0] * 7), Spread.of([1.0] * 7, disturbed=1)).verdict == "busy"


def test_over_several_sizes_each_counts_alike():
    """4 times faster at one size and half as fast at another is sqrt(2) times."""
    large = Spread.of([4.0] * 9), Spread.of([1.0] * 9)
    small = Spread.of([0.001] * 7), Spread.of([0.002] * 7)
    found = speedup_over([large, small])
    assert found.ratio == pytest.approx(2**0.5)
    assert (found.low, found.verdict) == (pytest.approx(found.ratio), "faster")
    assert speedup_over([large]) == speedup(*large)
    even = Spread.of([1.0] * 7), Spread.of([4.0] * 7)
    assert speedup_over([large, even]).verdict == "same"


def test_over_several_sizes_what_is_not_measurable_is_left_out():
    calm = Spread.of([1.0] * 7), Spread.of([2.0] * 7)
    disturbed = Spread.of([9.0] * 7), Spread.of([1.0] * 7, disturbed=1)
    assert speedup_over([calm, disturbed]) == speedup(*calm)
    assert speedup_over([disturbed]).verdict == "busy"


def preempted(clock, milliseconds, waits):
    """A callable that is pre-empted for the next of `waits` milliseconds at each call."""
    left = iter(waits)
    return lambda: clock.work(milliseconds, next(left, 0.0))


@pytest.mark.parametrize("wait", [30, 1])  # 4 of 5 ms are less than nine tenths
def test_pre_empted_rounds_are_taken_again(clock, wait):
    waits = [0, wait, 0, wait, wait, 0, 0]  # the first is the calibration
    runs = {"a": preempted(clock, 4, waits), "b": preempted(clock, 2, [])}
    found = measure_latency(runs, rounds=5, warmup=0, clock=clock)
    assert found["a"].samples == (4.0,) * 5
    assert found["b"].samples == (2.0,) * 5
    assert found["a"].disturbed == 0


def test_where_no_sample_is_undisturbed_the_budget_ends_it(clock):
    runs = {"a": lambda: clock.work(5, 5), "b": lambda: clock.work(5, 10)}
    found = measure_latency(runs, rounds=31, warmup=0, budget_s=1, clock=clock)
    assert (found["a"].disturbed, len(found["a"].samples)) == (7, 7)
    assert clock.wall < 1.1e9
    assert speedup(found["a"], found["b"]).verdict == "busy"


def test_where_the_budget_ends_the_calmest_rounds_are_kept(clock):
    waits = [0, 50, 10, 40, 10, 30, 10, 20, 10, 10, 10, 10, 50, 50]
    runs = {"a": preempted(clock, 5, waits)}
    found = measure_latency(runs, rounds=31, warmup=0, budget_s=0.3, clock=clock)
    assert found["a"].samples == (15.0,) * 7
    assert found["a"].disturbed == 7


def test_slow_callables_get_the_least_rounds_and_no_more(clock):
    runs = {"a": clock.run("a", 900), "b": clock.run("b", 300)}
    found = measure_latency(runs, rounds=31, warmup=0, budget_s=4, clock=clock)
    assert found["a"].samples == (900.0,) * 7
    assert speedup(found["a"], found["b"]).ratio == 3


def test_on_two_threads_a_call_may_use_one_processor_or_two(clock):
    def both() -> None:  # two processors for 3 ms
        clock.wall += 3_000_000
        clock.cpu += 6_000_000

    runs = {"two": both, "one": clock.run("one", 4)}
    found = measure_latency(runs, rounds=8, warmup=0, threads=2, clock=clock)
    assert (len(found["two"].samples), found["two"].disturbed) == (8, 0)
    assert (len(found["one"].samples), found["one"].disturbed) == (8, 0)


def test_equal_callables_are_hardly_ever_told_apart():
    """20 % of noise on every sample, 7 rounds: a false claim in 1 of 20 at most."""
    rng = random.Random(0)

    def noisy() -> Spread:
        return Spread.of([rng.lognormvariate(0, 0.2) for _ in range(7)])

    verdicts = [speedup(noisy(), noisy()).verdict for _ in range(400)]
    assert sum(v in ("faster", "slower") for v in verdicts) <= 20
    assert "same" in verdicts


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
    assert speedup(found["long"], found["short"]).ratio > 4


def test_mistakes_of_the_caller():
    with pytest.raises(ValueError, match="rounds"):
        measure_latency({}, rounds=0)
    with pytest.raises(ValueError, match="pairs"):
        speedup(Spread.of([1.0]), Spread.of([1.0, 2.0]))
