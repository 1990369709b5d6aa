"""How long small models take: a file of compressc that runs by itself with onnxruntime and numpy.

`compressc probe` copies it beside the models that it writes, as `measure.py`. On the device that
the model is for, `python measure.py` reads `plan.json` and leaves `table.json`. compressc itself
times with the same functions, so the two cannot differ.

Of a layer's model the time of its kernels counts, as ONNX Runtime's profiler tells it: what turns
values into the layout of a kernel and back stands at the ends of a model of one layer, and between
the layers of a whole one it does not. Rounds are interleaved; one model is in every group of them,
and what it takes there tells how fast the machine was just then. A call that had to wait for the
processor counts for the share of its time that it had it, and the slower half of all calls is left
out: on a busy machine, times of single calls are the bare ones and a tail.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

#: Of `plan.json` and `table.json`; it grows with every change of either.
SCHEMA = 2
#: Growth of the repeat count in one step of the calibration: a first call can be misleading.
GROWTH = 8
#: A sample that lasts so many times the least duration is long enough, whatever it waited for.
LONGEST = 50
#: A sample that had less of the processor than this share of what the call can use was pre-empted.
UNDISTURBED = 0.9
#: Models that are timed in turns, beside the one that is in every group.
GROUP = 8
#: Rounds of a group without a pre-empted sample, rounds that it has at the least, and the seconds
#: after which no further one is begun.
ROUNDS, LEAST_ROUNDS, SECONDS = 7, 5, 1.5
#: Least duration of one sample, in seconds.
LEAST_TIME = 0.002
#: Of the calls of a model, ranked by time, those that count: from one share to the other.
COUNTED = (0.1, 0.5)
#: Nodes that only change the layout.
LAYOUT = ("ReorderInput", "ReorderOutput")

#: Wall time and CPU time of the process, in nanoseconds.
Clock = Callable[[], "tuple[int, int]"]


def system_clock() -> tuple[int, int]:
    """Now: wall time and the CPU time of all threads of this process."""
    return time.perf_counter_ns(), time.process_time_ns()


# ---- rounds -----------------------------------------------------------------------------------


class Sample(NamedTuple):
    """Seconds of one call, and the processors that it had: 1 where it was never pre-empted."""

    wall: float
    share: float


#: One sample of each callable, by name.
Round = Mapping[str, Sample]


def take_sample(run: Callable[[], object], repeats: int, clock: Clock) -> Sample:
    """So many calls in a row."""
    wall, cpu = clock()
    for _ in range(repeats):
        run()
    then, cpu_then = clock()
    lasted = max(then - wall, 1)  # never 0: a ratio is taken of it
    return Sample(wall=lasted / 1e9 / repeats, share=(cpu_then - cpu) / lasted)


def calibrate(run: Callable[[], object], min_time_s: float, clock: Clock) -> int:
    """How many calls last `min_time_s`.

    By their CPU time: waiting for a neighbour would make them too few, and single calls with cold
    caches would be compared with many in a row.
    """
    repeats = 1
    while True:
        sample = take_sample(run, repeats, clock)
        seconds = sample.wall * repeats
        worked = seconds * min(sample.share, 1.0)
        if worked >= min_time_s or seconds >= LONGEST * min_time_s:
            return repeats
        wanted = repeats * 1.2 * min_time_s / max(worked, 1e-9)
        repeats = min(math.ceil(wanted), repeats * GROWTH)


def take_rounds(  # noqa: PLR0913  (how to measure)
    runs: Mapping[str, Callable[[], object]],
    repeats: Mapping[str, int],
    *,
    rounds: int,
    least: int,
    budget_s: float,
    threads: int,
    shuffle: Callable[[list[str]], object],
    clock: Clock,
) -> list[Round]:
    """Each callable once in a round, in an order shuffled anew, until enough are undisturbed.

    Args:
        runs: name -> callable.
        repeats: name -> calls of a sample.
        rounds: undisturbed ones that are wanted.
        least: that are taken at the least.
        budget_s: seconds after which no further one is begun.
        threads: that a callable may use.
        shuffle: brings the names into an order.
        clock: tells wall and CPU time.
    """
    order, end = list(runs), clock()[0] + budget_s * 1e9
    taken: list[Round] = []
    while sum(value >= UNDISTURBED for value in calmness(taken, threads)) < rounds:
        if len(taken) >= least and clock()[0] > end:
            break
        shuffle(order)
        taken.append({name: take_sample(runs[name], repeats[name], clock) for name in order})
    return taken


def calmness(taken: Sequence[Round], threads: int) -> list[float]:
    """For each round the worst share of what its callable can use: one processor, more at best."""
    if not taken:
        return []
    best = {n: min(max(1.0, *(r[n].share for r in taken)), threads) for n in taken[0]}
    return [min(sample.share / best[name] for name, sample in r.items()) for r in taken]


def calmest(taken: Sequence[Round], threads: int, least: int) -> tuple[list[int], int]:
    """Places of the undisturbed rounds; where they are too few, of the calmest.

    Returns:
        The places, and how many of them are of disturbed rounds.
    """
    values = calmness(taken, threads)
    calm = [place for place, value in enumerate(values) if value >= UNDISTURBED]
    if len(calm) >= least:
        return calm, 0
    ranked = sorted(range(len(taken)), key=lambda place: -values[place])
    return ranked[:least], least - len(calm)


# ---- models in ONNX Runtime -------------------------------------------------------------------


class Timed(NamedTuple):
    """What was measured of one model, in milliseconds of a call.

    The mean of the calls that count; the 10th and 90th percentile of all; and of the rounds that
    count, how many had a pre-empted sample, where too few had none.
    """

    ms: float
    low_ms: float
    high_ms: float
    disturbed: int

    def scaled(self, factor: float) -> Timed:
        """On a machine that is so many times as slow."""
        return Timed(self.ms * factor, self.low_ms * factor, self.high_ms * factor, self.disturbed)


class Refused(NamedTuple):
    """Why the runtime does not run a model."""

    reason: str


class _Model:
    """A model ready to run, profiled where its kernels are what counts."""

    def __init__(
        self,
        source: bytes | str,
        inputs: Sequence[Any],
        threads: int,
        whole: bool,
        clock: Clock,
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        self.whole, self.clock = whole, clock
        self.calls: list[Sample] = []
        if not whole:
            self.folder = tempfile.TemporaryDirectory()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(self.folder.name) / "profile")
        self.session = onnxruntime.InferenceSession(
            source, options, providers=["CPUExecutionProvider"]
        )
        names = [value.name for value in self.session.get_inputs()]
        self.feed = {name: _input(inputs[place]) for place, name in enumerate(names)}

    def __call__(self) -> None:
        wall, cpu = self.clock()
        self.session.run(None, self.feed)
        then, cpu_then = self.clock()
        lasted = max(then - wall, 1)
        self.calls.append(Sample(lasted / 1e9, (cpu_then - cpu) / lasted))

    def seconds(self, threads: int) -> list[Sample]:
        """Of each call so far, of its kernels alone where they are what counts.

        Of a call that was pre-empted so much as it had the processor; where it waited the profile
        does not tell, so that calls count the less the more they waited. There is no profile
        afterwards.
        """
        walls = [call.wall for call in self.calls] if self.whole else self._kernels()
        best = min(max(1.0, *(call.share for call in self.calls)), threads)
        return [
            Sample(wall * min(1.0, call.share / best), call.share / best)
            for wall, call in zip(walls, self.calls)  # noqa: B905  (the script runs on old Pythons)
        ]

    def _kernels(self) -> list[float]:
        path = self.session.end_profiling()
        with open(path, encoding="utf-8") as file:
            events = json.load(file)
        self.folder.cleanup()
        return kernel_seconds(events)


def kernel_seconds(events: Iterable[Mapping[str, Any]]) -> list[float]:
    """Seconds of the kernels of each run, layouts left out, from the events of a profile."""
    found, current = [], 0.0
    for event in events:
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time"):
            if event.get("args", {}).get("op_name") not in LAYOUT:
                current += event["dur"] / 1e6
        elif event.get("name") == "model_run":
            found.append(current)
            current = 0.0
    return found


def _input(given: Mapping[str, Any]) -> Any:
    """Normal numbers, or small integers below the bound that is given."""
    import numpy as np

    generator = np.random.default_rng(0)
    if given["dtype"].startswith("float"):
        return generator.standard_normal(given["shape"]).astype(given["dtype"])
    return generator.integers(0, given.get("below", 2), given["shape"]).astype(given["dtype"])


def time_models(  # noqa: PLR0913  (each of the last has a default)
    rows: Sequence[Mapping[str, Any]],
    source: Callable[[Mapping[str, Any]], bytes | str],
    threads: int,
    done: Callable[[int, int], object] = lambda count, total: None,
    *,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    clock: Clock = system_clock,
) -> list[Timed | Refused]:
    """What models take, in the order of the rows; one that the runtime refuses stops no other.

    Args:
        rows: `inputs` (a list of dtype and shape) and `whole` of each: whether the time of a call
            counts, not that of its kernels.
        source: a model's bytes or the path of its file.
        threads: that the runtime may use.
        done: told how many are done, and how many there are.
        rounds: undisturbed ones of each group.
        seconds: after which no further round of a group is begun.
        clock: tells wall and CPU time.
    """
    found: list[Timed | Refused] = []
    paces: list[float | None] = []
    reference: Mapping[str, Any] | None = None
    for start in range(0, len(rows), GROUP):
        group = rows[start : start + GROUP]
        done(start, len(rows))
        opened = [_opened(row, source, threads, clock) for row in group]
        models = [model for model in opened if isinstance(model, _Model)]
        timed: list[Timed] = []
        if models:
            reference = reference or group[opened.index(models[0])]
            first = _model(reference, source, threads, clock)
            draw = random.Random(start)
            timed = _time_group([first, *models], threads, rounds, seconds, draw, clock)
        left = iter(timed[1:])
        found += [next(left) if isinstance(model, _Model) else model for model in opened]
        pace = max(timed[0].ms, 1e-6) if timed else None
        paces += [pace if isinstance(model, _Model) else None for model in opened]
    usual = statistics.median([pace for pace in paces if pace] or [1.0])
    return [
        one.scaled(usual / pace) if isinstance(one, Timed) and pace else one
        for one, pace in zip(found, paces)  # noqa: B905  (old Pythons)
    ]


def _opened(
    row: Mapping[str, Any],
    source: Callable[[Mapping[str, Any]], bytes | str],
    threads: int,
    clock: Clock,
) -> _Model | Refused:
    """The model of a row, after its first call; or why it does not run."""
    try:
        model = _model(row, source, threads, clock)
        model()
    except Exception as error:
        return Refused(str(error).partition("\n")[0] or type(error).__name__)
    return model


def _model(
    row: Mapping[str, Any],
    source: Callable[[Mapping[str, Any]], bytes | str],
    threads: int,
    clock: Clock,
) -> _Model:
    return _Model(source(row), row["inputs"], threads, bool(row.get("whole")), clock)


def time_ratio(  # noqa: PLR0913  (two models, and how to measure)
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    source: Callable[[Mapping[str, Any]], bytes | str],
    threads: int,
    *,
    rounds: int,
    seconds: float,
    clock: Clock = system_clock,
) -> float:
    """What the second model takes beside the first: the median of the ratios of all rounds.

    Neighbours slow both down while they are at work: a ratio of one round knows nothing of it.

    Args:
        first, second, source, threads, rounds, seconds, clock: as for `time_models`.
    """
    models = [_model(row, source, threads, clock) for row in (first, second)]
    ours, theirs = (
        [_timed(calls, 0).ms for calls in every]
        for every, _ in _time_calls(models, threads, rounds, seconds, random.Random(0), clock)
    )
    return statistics.median(b / max(a, 1e-9) for a, b in zip(ours, theirs))  # noqa: B905


def _time_group(  # noqa: PLR0913
    group: Sequence[_Model],
    threads: int,
    rounds: int,
    seconds: float,
    draw: random.Random,
    clock: Clock,
) -> list[Timed]:
    """What each of a group takes; the first of them is the reference."""
    return [
        _timed([one for calls in every for one in calls], disturbed)
        for every, disturbed in _time_calls(group, threads, rounds, seconds, draw, clock)
    ]


def _time_calls(  # noqa: PLR0913
    group: Sequence[_Model],
    threads: int,
    rounds: int,
    seconds: float,
    draw: random.Random,
    clock: Clock,
) -> list[tuple[list[list[Sample]], int]]:
    """For each model its calls in each round that counts.

    Beside them how many of these rounds were disturbed.
    """
    models = {str(place): model for place, model in enumerate(group)}
    for model in group:
        model()
        model()
    repeats = {name: calibrate(model, LEAST_TIME, clock) for name, model in models.items()}
    before = {name: len(model.calls) for name, model in models.items()}
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()  # a collection would be charged to whoever runs just then
    try:
        taken = take_rounds(
            models,
            repeats,
            rounds=rounds,
            least=LEAST_ROUNDS,
            budget_s=seconds,
            threads=threads,
            shuffle=draw.shuffle,
            clock=clock,
        )
    finally:
        if enabled:
            gc.enable()
    places, disturbed = calmest(taken, threads, LEAST_ROUNDS)
    found = []
    for name, model in models.items():
        every, count = model.seconds(threads)[before[name] :], repeats[name]
        calls = [every[count * place : count * (place + 1)] for place in places]
        found.append((calls, disturbed))
    return found


def _timed(calls: Sequence[Sample], disturbed: int) -> Timed:
    """What the calls of a model come to: those that hardly waited, or that waited least."""
    calm = [call.wall for call in calls if call.share >= UNDISTURBED]
    if len(calm) < LEAST_ROUNDS:
        calm = [call.wall for call in sorted(calls, key=lambda call: -call.share)[:LEAST_ROUNDS]]
    ranked = sorted(1e3 * wall for wall in calm)
    last = len(ranked) - 1
    first, end = (round(share * last) for share in COUNTED)
    counted = ranked[first : end + 1]
    low, high = ranked[round(0.1 * last)], ranked[round(0.9 * last)]
    return Timed(sum(counted) / len(counted), low, high, disturbed)


# ---- the device -------------------------------------------------------------------------------


def describe_device() -> dict[str, str]:
    """Processor, architecture and system; nothing that identifies a machine."""
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    """The model of the processor, as it calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine() or "unknown"
    for word in ("model name", "Hardware", "Model"):
        for line in lines:
            if line.startswith(word):
                return line.partition(":")[2].strip()
    return platform.machine() or "unknown"


def measured(
    plan: Mapping[str, Any], timed: Sequence[Timed | Refused], runtime_version: str
) -> dict[str, Any]:
    """`table.json`, from a plan and what its rows took."""
    rows = []
    refused = {}
    for row, one in zip(plan["rows"], timed):  # noqa: B905
        if isinstance(one, Refused):
            refused[row["layer"]] = one.reason
            continue
        kept = {key: row[key] for key in ("layer", "sizes", "batch")}
        rows.append({**kept, **{k: round(v, 6) for k, v in one._asdict().items()}})
    return {
        "schema_version": SCHEMA,
        "model": plan["model"],
        "structure": plan["structure"],
        "machine": describe_device(),
        "runtime": plan["runtime"],
        "runtime_version": runtime_version,
        "threads": plan["threads"],
        "rows": rows,
        "refused": refused,
    }


def main() -> int:
    """Time every model of `plan.json`, and write `table.json` beside it."""
    parser = argparse.ArgumentParser(description="Times the models beside this file.")
    parser.add_argument("--folder", type=Path, default=Path(__file__).resolve().parent)
    folder = parser.parse_args().folder
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        print(f"no plan.json that can be read: {error}", file=sys.stderr)
        return 1
    if plan.get("schema_version") != SCHEMA:
        print("plan.json and this file are not of one version of compressc", file=sys.stderr)
        return 1
    try:
        import onnxruntime
    except ImportError as error:
        print(f"this needs onnxruntime and numpy: {error}", file=sys.stderr)
        return 1

    def tell(count: int, total: int) -> None:
        print(f"\r{count} of {total} models", end="", file=sys.stderr, flush=True)

    timed = time_models(plan["rows"], lambda row: str(folder / row["file"]), plan["threads"], tell)
    table = json.dumps(measured(plan, timed, onnxruntime.__version__), indent=1)
    partial = folder / "table.json.partial"
    partial.write_text(table + "\n", encoding="utf-8")
    partial.replace(folder / "table.json")
    for layer, reason in json.loads(table)["refused"].items():
        print(f"\rnot timed, {layer}: {reason}", file=sys.stderr)
    print(f"\rwrote {folder / 'table.json'}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
