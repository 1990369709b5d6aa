"""A share of the measured time as a target: predicted by a table of layers, checked by measuring.

The table is taken on this machine, or it is the `table.json` of another one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compressc.analysis import Axis, Coupling, Width, sizes_of
from compressc.backend import load_backend
from compressc.errors import CompresscError
from compressc.ir import Graph, random_inputs
from compressc.measure.layer_times import time_ratio
from compressc.measure.table import LatencyTable, read_table
from compressc.pipeline import Context
from compressc.probe import BACKEND, RUNTIME, Times, emit_part, here, is_here, plan_of, read_by
from compressc_prune.alike import Alike
from compressc_prune.allocation import Sizes
from compressc_prune.trials import cut_copy

#: Undisturbed samples of the whole graph, and the seconds that they may take.
ROUNDS, SECONDS = 61, 6.0
#: A width whose cut saves less than this share of the time of its layers does not pay.
PAYS = 0.01


class Latency:
    """What is left of a graph's time after cuts.

    Attributes:
        share: of the whole that the graph takes as it is.

    Args:
        graph: not changed.
        found: its coupling.
        movable: the widths that may be cut.
        ctx: gives target, inputs, and where tables are kept.
        batch: size at which time counts; the first of the target where None.
        table: path of a `table.json`; measured on this machine where None.
        of: the graph whose time is the whole; the graph itself where None.

    Raises:
        CompresscError: CC304 for a table that does not fit, CC107 for a runtime that cannot be
            timed.
    """

    def __init__(  # noqa: PLR0913
        self,
        graph: Graph,
        found: Coupling,
        movable: Sequence[Width],
        ctx: Context,
        batch: int | None = None,
        table: str | None = None,
        of: Graph | None = None,
    ) -> None:
        self.graph, self.found, self.ctx = graph, found, ctx
        self.of = of or graph
        self.movable = frozenset(width.axis for width in movable)
        self.batch = batch or next(iter(ctx.target.batches), 1)
        self.sizes = sizes_of(graph, ctx.example())
        self.plan = plan_of(graph, found, self.sizes, self.batch, self.movable)
        if not self.plan.layers.timed:
            raise _nothing_timed("none that can be timed by itself")
        self.table, self.measured_rows = self._table(table)
        try:
            self.times = Times(self.plan, self.movable, self.table)
        except CompresscError as error:
            raise error.at(table or error.where) from error
        if not self.times.layers:
            raise _nothing_timed(next(iter(self.times.refused.values())))
        self.known: dict[tuple[tuple[int, int], ...], float] = {}
        self._scratch = tempfile.TemporaryDirectory()
        self._full: Path | None = None
        self.share = 1.0 if self.of is graph else self._measured({})

    @property
    def is_here(self) -> bool:
        """Whether the table is of this machine, so that a prediction can be checked."""
        return is_here(self.table)

    @property
    def where(self) -> str:
        """Whose time it is."""
        return f"{self.table.device}, batch {self.batch}"

    def left(self, sizes: Sizes) -> float:
        """The share of the time that is left, as predicted."""
        return self.share * self.times.at(leaves_left(sizes)) / self.times.whole

    def step(self) -> int:
        """The step of the time curve, 1 where it has none."""
        return self.times.step(self.movable)

    def unpaid(self, kinds: Sequence[Alike]) -> list[Alike]:
        """Widths of which no cut saves time by the table."""
        return [kind for kind in kinds if not self._pays(kind)]

    def measured(self, sizes: Sizes) -> float:
        """The share of the time that is left, measured with both graphs in the runtime."""
        key = tuple(sorted((id(kind), size) for kind, size in sizes.items()))
        if key not in self.known:
            kept = {width: torch.arange(n) for kind, n in sizes.items() for width in kind}
            self.known[key] = self._measured(kept)
        return self.known[key]

    def _pays(self, kind: Alike) -> bool:
        part = self.times.reading([width.axis for width in kind])
        whole = part.at({})
        tenths = (max(1, kind[0].size * tenth // 8) for tenth in range(1, 8))
        least = min(part.at(leaves_left({kind: size})) for size in tenths)
        return least < whole * (1 - PAYS)

    def _measured(self, kept: Mapping[Width, Tensor]) -> float:
        backend, place, example = load_backend(BACKEND), Path(self._scratch.name), self._example()
        if self._full is None:
            self._full = backend.emit(self.of, place / "full", example)
        with cut_copy(self.graph, self.found, kept) as copy:
            cut = backend.emit(copy, place / "cut", example)
        inputs = read_by(self.graph, self.sizes, self.batch)
        full, ours = (
            {"file": str(path), "inputs": inputs, "whole": True} for path in (self._full, cut)
        )
        threads = self.ctx.target.threads
        file = itemgetter("file")
        return time_ratio(full, ours, file, threads, rounds=ROUNDS, seconds=SECONDS)

    def _example(self) -> tuple[Tensor, ...]:
        if self.ctx.data is not None:
            return self.ctx.data.calibration.take(4).inputs
        return random_inputs(self.graph)

    def _table(self, path: str | None) -> tuple[LatencyTable, int]:
        threads = self.ctx.target.threads
        if path is None:
            with tempfile.TemporaryDirectory() as folder:
                place = Path(folder)

                def whole(part: int) -> tuple[str, list[dict[str, Any]]]:
                    left, own = self.plan.parts[part], place / str(part)
                    file = emit_part(self.graph, self.found, left, own, self._example())
                    return str(file), read_by(self.graph, self.sizes, self.batch)

                tell = partial(self.ctx.progress, "timing layers")
                return here(self.plan, whole, threads, self.ctx.store.latencies, tell)
        table = read_table(path)
        wrong = {
            f"a table of {table.runtime}": table.runtime != RUNTIME,
            f"a table of {table.threads} threads, not {threads}": table.threads != threads,
        }
        for got in (text for text, is_so in wrong.items() if is_so):
            wanted = f"a table of {RUNTIME} at the target's threads"
            hint = f"compressc probe --threads {threads}, and its measure.py on the device"
            raise CompresscError("CC304", wanted, got=got, where=path, hint=hint)
        return table, 0


def _nothing_timed(got: str) -> CompresscError:
    wanted = "option 'latency' of pass 'prune': some layer whose time depends on a width"
    return CompresscError("CC102", wanted, got=got, hint="macs=0.5 in place of latency=0.5")


def leaves_left(sizes: Sizes) -> dict[Axis, int]:
    """Leaf axis -> indices that are left."""
    return {width.axis: size for kind, size in sizes.items() for width in kind}
