"""Mixed precision: the smallest set of ops in float with which a model keeps its score.

Each part is rounded alone, and what that costs the outputs is measured; parts go back to float from
the worst one on until the drop is met, as few as a search by halves finds; then those that it can
do without are rounded again. That is one run for each part over a few samples, and about
log2(parts) + 8 runs over those that scores are taken on.

Where weights have fewer bits than 8, parts get 8 bits first, and only what these lose too much by
goes to float.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from compressc.analysis.coverage import Verdict
from compressc.ir import Graph, Op, retype
from compressc.ir.number_forms import INT8_PER_CHANNEL
from compressc.pipeline import Context
from compressc_quant.losing import Losses
from compressc_quant.restoring import Held, restore, rounded_ops
from compressc_quant.tying import sharing

#: Samples that the error of one part is measured on.
SAMPLES = 64
#: Parts that are measured each by itself; of more ops, neighbours are measured together first.
PARTS = 48
#: Parts of a set that are tried to be done without.
TRIES = 8

Part = tuple[str, ...]


@dataclass(frozen=True)
class Mixed:
    """What came of the search.

    Attributes:
        floats: ops that must be in float, each with the share of the outputs that its part costs.
        wider: ops whose weights must have 8 bits, likewise.
        ops: how many could be.
        start: the drop with everything rounded.
        drop: with these in float.
        errors: of each part that was measured, the worst first.
    """

    floats: Mapping[str, float]
    ops: int
    start: float
    drop: float
    errors: Sequence[tuple[Part, float]] = ()
    wider: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Search:
    """Looks for the ops that must be in float.

    Attributes:
        graph: quantized; not changed.
        before: its layers as they were.
        losses: measures.
        most: drop that is accepted.
        ctx: told of the progress.
        finish: what is done to a graph that has ops in float before it is measured.
        widen: gives ops weights of 8 bits; None where they have them.
    """

    graph: Graph
    before: Mapping[str, Held]
    losses: Losses
    most: float
    ctx: Context
    finish: Callable[[Graph], object]
    widen: Callable[[Graph, Sequence[str]], object] | None = None
    _drops: dict[tuple[frozenset[Part], ...], float] = field(default_factory=dict, init=False)

    def run(self) -> Mixed:
        """Measure and search; nothing is in float where the drop is met without."""
        names = rounded_ops(self.graph, self.before)
        start = self.losses.drop(self.graph)
        if start <= self.most or not names:
            return Mixed({}, len(names), start, start)
        self._drops[frozenset(), frozenset()] = start
        errors = self._errors(self.graph, names)
        ranked = [part for part, _ in errors]
        if self.widen is None:
            floats = self._fewest(ranked, lambda chosen: self._drop(chosen, []))
            return Mixed(_costs(floats, errors), len(names), start, self._drop(floats, []), errors)
        floats, alone = self._floats_beside_eight(ranked, names)
        narrow = {name for name in names if _is_narrow(self.graph[name])} - set(_names(floats))
        others = [part for part in ranked if narrow.intersection(part)]
        wider = self._fewest(others, lambda chosen: self._drop(floats, chosen))
        drop = self._drop(floats, wider)
        in_float = _costs(floats, [*alone, *errors])
        eight = {name: cost for name, cost in _costs(wider, errors).items() if name in narrow}
        return Mixed(in_float, len(names), start, drop, errors, eight)

    def apply(self, graph: Graph, floats: Sequence[str], wider: Sequence[str] = ()) -> None:
        """Put ops back to float, and give others weights of 8 bits."""
        if wider and self.widen is not None:
            self.widen(graph, wider)
        restore(graph, floats, self.before)
        self.finish(graph)
        retype(graph)

    def _floats_beside_eight(
        self, ranked: Sequence[Part], names: Sequence[str]
    ) -> tuple[list[Part], list[tuple[Part, float]]]:
        """What must be in float where all else has 8 bits; and what parts cost with 8 bits."""
        if self._drop([], ranked) <= self.most:
            return [], []
        eight = self.graph.copy()
        self.apply(eight, [], names)
        alone = self._errors(eight, names)
        chosen = self._fewest([part for part, _ in alone], lambda some: self._drop(some, ranked))
        return chosen, alone

    def _fewest(
        self, ranked: Sequence[Part], drop: Callable[[Sequence[Part]], float]
    ) -> list[Part]:
        """The first so many, without those that are not needed."""
        if drop([]) <= self.most:
            return []
        low, high = 0, len(ranked)
        while high - low > 1:
            middle = (low + high) // 2
            if drop(ranked[:middle]) <= self.most:
                high = middle
            else:
                low = middle
        chosen = list(ranked[:high])
        for part in chosen[-2 : -TRIES - 2 : -1]:
            fewer = [other for other in chosen if other != part]
            if drop(fewer) <= self.most:
                chosen = fewer
        return chosen

    def _drop(self, floats: Sequence[Part], wider: Sequence[Part]) -> float:
        key = frozenset(floats), frozenset(wider)
        if key not in self._drops:
            self.ctx.progress("looking for what must stay float", len(self._drops), 0)
            made = self.graph.copy()
            self.apply(made, _names(floats), _names(wider))
            self._drops[key] = self.losses.drop(made)
        return self._drops[key]

    def _errors(self, graph: Graph, names: Sequence[str]) -> list[tuple[Part, float]]:
        """What each part costs when it alone is rounded, the worst first.

        Ops that share a weight are in one part: apart, its integers and its floats would be stored.
        """
        units = sharing(names, self.before)
        size = -(-len(units) // PARTS)
        parts = [tuple(_names(units[i : i + size])) for i in range(0, len(units), size)]
        found = self._measured(graph, parts, names)
        if size > 1:  # of the worst, each op by itself
            worst = [part for part, _ in found[: max(1, PARTS // size)]]
            inside = set(_names(worst))
            alone = [unit for unit in units if inside.issuperset(unit)]
            found = [*self._measured(graph, alone, names), *(p for p in found if p[0] not in worst)]
        return sorted(found, key=lambda pair: -pair[1])

    def _measured(
        self, graph: Graph, parts: Sequence[Part], names: Sequence[str]
    ) -> list[tuple[Part, float]]:
        found = []
        for done, part in enumerate(parts):
            self.ctx.progress("measuring what parts cost", done, len(parts))
            only = graph.copy()
            restore(only, [name for name in names if name not in part], self.before)
            found.append((part, self.losses.error(only, SAMPLES)))
        return sorted(found, key=lambda pair: -pair[1])


def _names(parts: Sequence[Part]) -> list[str]:
    return [name for part in parts for name in part]


def _is_narrow(op: Op) -> bool:
    return op.weight_form is not None and op.weight_form.bits < INT8_PER_CHANNEL.bits


def _costs(parts: Sequence[Part], errors: Sequence[tuple[Part, float]]) -> dict[str, float]:
    """Op -> what its part costs."""
    cost = dict(reversed(errors))
    return {name: cost[part] for part in parts for name in part}


def tell(mixed: Mixed, losses: Losses, most: float, ctx: Context) -> None:
    """Notes and a record of what was found."""
    ctx.record(
        "mixed precision",
        {
            "max_drop": most,
            "lost": losses.title,
            "samples": losses.count,
            "start": mixed.start,
            "drop": mixed.drop,
            "float": list(mixed.floats),
            "wider": list(mixed.wider),
            "ops": mixed.ops,
            "runs": losses.runs,
            "errors": [{"ops": list(part), "error": error} for part, error in mixed.errors],
        },
    )
    text = f"{losses.title} lost on {losses.count} samples held out: {mixed.start:.4f} with "
    text += "everything rounded"
    if not mixed.errors:
        within = "within" if mixed.start <= most else "nothing can be put back for"
        ctx.note("", f"{text}, {within} max_drop={most:g}")
        return
    left = len(mixed.floats)
    eight = f" and {len(mixed.wider)} with 8 bits" if mixed.wider else ""
    for name, cost in mixed.wider.items():
        ctx.note(name, f"its weight has 8 bits for max_drop: fewer alone cost {_share(cost)}")
    ctx.note(
        "",
        f"{text}, {mixed.drop:.4f} with {left} of {mixed.ops} ops in float{eight}; it took "
        f"{losses.runs} runs over these samples and {len(mixed.errors)} over {SAMPLES}",
    )
    if mixed.drop > most:
        ctx.note("", f"max_drop={most:g} cannot be met: {mixed.drop:.4f} is lost in float, too")
    elif left == mixed.ops:
        ctx.note("", f"max_drop={most:g} is met by leaving everything in float, and no other way")


def kept(planned: Mapping[str, Verdict], seen: Context, *, trains: bool) -> Mapping[str, Verdict]:
    """Verdicts with what a search on a copy has found.

    Args:
        planned: what would be done without it.
        seen: notes and record of the copy.
        trains: whether the pass itself may train first, and spare some of it.
    """
    record: Any = seen.records.get("mixed precision", {})
    told = dict(seen.notes)
    may = "; training may spare it" if trains else ""
    found = dict(planned)
    for name in record.get("float", ()):
        if name in found:
            found[name] = Verdict.cannot(told.get(name, "").removeprefix("skipped: ") + may)
    for name in record.get("wider", ()):
        found[name] = Verdict.does(told[name] + may, *planned[name].tensors)
    return found


def why(cost: float) -> str:
    """Of an op that is in float for the sake of the score."""
    return f"it stays in float for max_drop: rounded alone it costs {_share(cost)}"


def _share(cost: float) -> str:
    return f"{cost:.2%} of the outputs"
