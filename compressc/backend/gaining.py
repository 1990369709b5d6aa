"""Which regions of a quantized graph a runtime is faster with in integers.

Integers are no gain everywhere: values are converted where they begin and end, and runtimes have
kernels for some layers alone. So the graph is divided into neighbouring layers, and a file with
each of these regions in floats is timed beside the file that has all in integers. A region that
integers are not measurably faster with is left in floats; its weights stay stored as they are. What
comes of it is held against the file it began from, and against the one in floats throughout.

There is one file for all batch sizes, and a region may gain at one and lose at another: every size
counts alike, by the geometric mean of the ratios.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from compressc.analysis import op_costs
from compressc.analysis.beside import sizes_of
from compressc.analysis.integers import integer_layers, is_integer
from compressc.backend.backend import Backend, Runner
from compressc.backend.file_record import Gains, Region
from compressc.backend.threads import torch_threads
from compressc.collecting import give_back
from compressc.editing import computes_on_integers, read_floats
from compressc.ir import Graph, retype
from compressc.measure import Speedup, Spread, Verdict, measure_latency, speedup, speedup_over

#: Regions at most: of so many, each is an eighth of the work, and halving its time is a twentieth
#: of the whole, which can still be measured.
REGIONS = 8
#: Rounds of a comparison.
_ROUNDS = 31


@dataclass(frozen=True)
class Part:
    """A region: `layers` may run in integers; `names` is all that reads integers in it."""

    layers: tuple[str, ...]
    names: tuple[str, ...]


def parts_of(graph: Graph, example: Sequence[torch.Tensor], most: int = REGIONS) -> list[Part]:
    """Neighbouring layers, each region about as much work as the others.

    Args:
        graph: that rounds values.
        example: inputs, whose sizes the work is counted at.
        most: regions.
    """
    costs = op_costs(graph, **sizes_of(graph, example))
    work = {op.name: max(costs[op.name].macs, 1) for op in integer_layers(graph)}
    share, done, place = sum(work.values()) / most, 0.0, 0
    layers, names = defaultdict[int, list[str]](list), defaultdict[int, list[str]](list)
    for op in graph:
        if op.name in work:
            place = int((done + work[op.name] / 2) / share)
            done += work[op.name]
            layers[place].append(op.name)
        if layers and computes_on_integers(graph, op):
            names[place].append(op.name)
    outputs = [name for name in dict.fromkeys(graph.output_names) if is_integer(graph, name)]
    names[place] += outputs
    return [Part(tuple(found), tuple(names[place])) for place, found in layers.items()]


def in_floats(graph: Graph, parts: Sequence[Part]) -> Graph:
    """A copy that computes these regions in floats."""
    made = graph.copy()
    read_floats(made, [name for part in parts for name in part.names])
    retype(made)
    return made


@dataclass(frozen=True)
class Compared:
    """How many times faster one file is than another.

    Attributes:
        over_all: where every batch size counts alike.
        each: at each of them, in their order.
    """

    over_all: Speedup
    each: tuple[Speedup, ...]

    @classmethod
    def of(cls, pairs: Sequence[tuple[Spread, Spread]]) -> Compared:
        """Of latencies of the other file and of the one, at each batch size."""
        return cls(speedup_over(pairs), tuple(speedup(*pair) for pair in pairs))

    @property
    def verdict(self) -> Verdict:
        """What the ratio is worth."""
        return self.over_all.verdict


@dataclass(frozen=True)
class Gaining:
    """Times files of one back end side by side.

    Attributes:
        backend: writes and runs them.
        example: inputs that an exporter traces with.
        inputs: what is timed, at each batch size that is decided for.
        threads: of the runtime.
    """

    backend: Backend
    example: tuple[torch.Tensor, ...]
    inputs: tuple[tuple[torch.Tensor, ...], ...]
    threads: int

    def of(self, graph: Graph) -> tuple[Graph, Gains]:
        """The graph that the file is to be written from, and what was measured for it.

        Args:
            graph: that rounds values; not changed.

        Raises:
            CompresscError: CC503, CC504 where the file with all in integers cannot be written or
                run.
        """
        parts = parts_of(graph, self.example)
        if not parts:
            return graph, Gains(
                batches=self._batches, regions=[], outcome="no layer reads integers"
            )
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            whole = self._runner(graph, folder / "whole")
            ratios = [
                self._against(whole, graph, [p], folder / str(i)) for i, p in enumerate(parts)
            ]
            left = [part for part, ratio in zip(parts, ratios, strict=True) if self._goes(ratio)]
            floats = list(parts) if len(left) == len(parts) else left
            outcome = self._outcome(ratios)
            ends = self._against(whole, graph, left, folder / "left") if len(left) > 1 else None
            if ends is not None and ends.verdict == "faster":  # each by itself is too little
                floats, outcome = [], f"all in integers: together they gain {self._times(ends)}"
            elif 0 < len(floats) < len(parts):
                mixed = self._runner(in_floats(graph, floats), folder / "mixed")
                rest = self._compared(mixed, in_floats(graph, parts), folder / "floats")
                if rest is not None and rest.verdict == "slower":  # than the floats
                    floats = list(parts)
                    outcome = f"all in floats: integers are slower as a whole, {self._times(rest)}"
        regions = [
            self._region(part, ratio, part in floats)
            for part, ratio in zip(parts, ratios, strict=True)
        ]
        at = ", ".join(map(str, self._batches))
        outcome = f"{outcome} (batch {at})"
        found = Gains(batches=self._batches, regions=regions, outcome=outcome)
        return in_floats(graph, floats) if floats else graph, found

    @property
    def _batches(self) -> list[int]:
        return [len(inputs[0]) for inputs in self.inputs]

    def _goes(self, ratio: Compared | None) -> bool:
        """Whether integers are no gain, of what could be measured."""
        return ratio is not None and ratio.verdict in ("same", "slower")

    def _outcome(self, ratios: Sequence[Compared | None]) -> str:
        gained = sum(ratio is not None and ratio.verdict == "faster" for ratio in ratios)
        unknown = sum(ratio is None or ratio.verdict == "busy" for ratio in ratios)
        text = (
            f"{self.backend.runtime} is faster with integers in {gained} of {len(ratios)} regions"
        )
        more = f"; {unknown} could not be measured and stay in integers" if unknown else ""
        return f"{text} of the layers{more}; floats in the others"

    def _region(self, part: Part, ratio: Compared | None, floats: bool) -> Region:
        runtime = self.backend.runtime
        if ratio is None:
            reason = f"{runtime} runs no file with it in floats to compare with"
            return Region(layers=list(part.layers), reason=reason)
        words = {
            "faster": f"{runtime} is faster with it in integers",
            "same": f"{runtime} is no faster with it in integers",
            "slower": f"{runtime} is slower with it in integers",
            "busy": "not measurable here",
        }
        return Region(
            layers=list(part.layers),
            speedup=ratio.over_all.ratio,
            speedup_low=ratio.over_all.low,
            speedup_high=ratio.over_all.high,
            speedups=[each.ratio for each in ratio.each],
            verdict=ratio.verdict,
            floats=floats,
            reason=f"{words[ratio.verdict]}: {self._times(ratio)}",
        )

    def _against(
        self, whole: Runner, graph: Graph, parts: Sequence[Part], folder: Path
    ) -> Compared | None:
        """How many times faster all in integers is than with these regions in floats."""
        return self._compared(whole, in_floats(graph, parts), folder)

    def _compared(self, one: Runner, other: Graph, folder: Path) -> Compared | None:
        """How many times faster a file is than that of another graph, which may have none."""
        try:
            runs: Mapping[str, Runner] = {"other": self._runner(other, folder), "one": one}
            return Compared.of([self._timed(runs, inputs) for inputs in self.inputs])
        except Exception:  # each runtime has exception types of its own; what stays is proved
            return None

    def _timed(
        self, runs: Mapping[str, Runner], inputs: tuple[torch.Tensor, ...]
    ) -> tuple[Spread, Spread]:
        calls = {name: partial(run, *inputs) for name, run in runs.items()}
        with torch_threads(self.threads):
            spreads = measure_latency(calls, rounds=_ROUNDS, threads=self.threads)
        return spreads["other"], spreads["one"]

    def _times(self, ratio: Compared) -> str:
        """`1.20x, 1.18 to 1.22`, and what it is at each of several batch sizes."""
        mean = ratio.over_all
        text = f"{mean.ratio:.2f}x, {mean.low:.2f} to {mean.high:.2f}"
        if len(ratio.each) == 1:
            return text
        pairs = zip(self._batches, ratio.each, strict=True)
        each = (f"{size}: {one.ratio:.2f}x{'?' * (one.verdict == 'busy')}" for size, one in pairs)
        return f"{text}; at batch {', '.join(each)}"

    def _runner(self, graph: Graph, folder: Path) -> Runner:
        path = self.backend.emit(graph, folder, self.example)
        give_back()
        return self.backend.load(path, threads=self.threads)
