"""Pruning in steps: cut a part of the way, learn from the teacher for a while, and cut again.

Weights that are about to go are chosen anew after each training, by what the smaller model has made
of them. Sources: Molchanov et al. 2017 (arXiv 1611.06440, section 2), Frankle and Carbin 2019.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from compressc import processes
from compressc.analysis import beside
from compressc.distillation import recover
from compressc.errors import CompresscError
from compressc.ir import Graph
from compressc.pipeline import Context
from compressc.pipeline.cache import PassCache
from compressc.pipeline.stored import Facts
from compressc_prune.cutting import Chosen
from compressc_prune.origin import Uncut
from compressc_prune.targets import COSTS

#: (graph, context, number of the step, what it was before the first): chooses and cuts.
Cut = Callable[[Graph, Context, int, Uncut], Chosen]


@dataclass(frozen=True)
class Steps:
    """How to go about it.

    Attributes:
        count: cuts.
        epochs: of the training behind each but the last.
        cut: makes one.
        option: of the target, as `Target` has it; `ratio` where there is none.
    """

    count: int
    epochs: int
    cut: Cut
    option: str

    def run(self, graph: Graph, ctx: Context, uncut: Uncut) -> Chosen:
        """All of them; what comes of the last cut.

        Notes and records of the cuts in between are not kept but for one line each.

        Args:
            graph: edited in place.
            uncut: what it was.
            ctx: of the pass; what was done before it was killed is found in its store.
        """
        parts = [f"{what} {n}" for n in range(1, self.count) for what in ("cut", "trained")]
        stages = _Stages(graph, ctx, parts)
        for done, part in enumerate(parts):
            step = done // 2 + 1
            if done < stages.done:
                continue
            if part.startswith("cut"):
                ctx.progress("cutting in steps", step - 1, self.count)
                self.cut(graph, replace(ctx, notes=[], records={}), step, uncut)
            else:
                self._train(graph, ctx, uncut.whole, step)
            stages.keep(part)
        return self.cut(graph, ctx, self.count, uncut)

    def _train(self, graph: Graph, ctx: Context, whole: Graph, step: int) -> None:
        """Learn from the teacher, with a note of what it is worth."""
        what = f"training behind cut {step} of {self.count}"
        found = recover(graph, ctx, epochs=self.epochs, name=f"recovery {step}", what=what)
        cost = beside(graph, whole, ctx.example())
        of, title = COSTS.get(self.option, ("parameters", "parameters"))
        left = f"{cost.share(of):.1%} of the {title} left"
        epochs = f"{self.epochs} epoch{'s' if self.epochs > 1 else ''}"
        ctx.note(graph.name, f"cut {step} of {self.count}: {left}; {epochs} behind it: {found}")
        known = ctx.records.get("steps", [])
        assert isinstance(known, list)
        shares = {name: cost.share(name) for name in ("parameters", "macs", "bytes")}
        ctx.record("steps", [*known, {"left": shares, **found.as_json()}])


class _Stages:
    """The graph after each part of the work, on disk: a run that was killed goes on from there.

    Args:
        graph, ctx: become what they were after the last part that is there.
        parts: names of all parts, in order.
    """

    def __init__(self, graph: Graph, ctx: Context, parts: Sequence[str]) -> None:
        self.graph, self.ctx = graph, ctx
        self.cache = PassCache(ctx.store.place("steps"))
        self.done = 0
        for number in range(len(parts), 0, -1):
            if self._load(parts[number - 1]):
                self.done = number
                ctx.store.say(f"went on behind '{parts[number - 1]}'")
                break

    def keep(self, part: str) -> None:
        """Store the graph, and what was said so far; what was there before goes."""
        facts = Facts(
            text=part,
            seconds=0.0,
            edits=dict(self.graph.edits),
            notes=self.ctx.notes,
            records=self.ctx.records,
            made={},
        )
        key = _key(part)
        if self.cache.store(key, self.graph, facts) and self.cache.folder is not None:
            for other in self.cache.folder.iterdir():
                if other.name != key:
                    shutil.rmtree(other, ignore_errors=True)

    def _load(self, part: str) -> bool:
        found = self.cache.load(_key(part), self.ctx.store.say)
        if not processes.of_main(found is not None):
            return False
        if found is None:
            raise CompresscError("CC601", "every process reads the same steps")
        self.graph.become(found.graph)
        self.graph.edits = Counter(found.facts.edits)
        self.ctx.notes[:] = found.facts.notes
        self.ctx.records.clear()
        self.ctx.records.update(found.facts.records)
        return True


def _key(part: str) -> str:
    return PassCache.key({"part": part})
