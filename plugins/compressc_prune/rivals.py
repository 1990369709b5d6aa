"""The better of two cuts that take as much time: by what they leave of the answers.

Importance tells the indices of one width apart better than widths, and a table of times is as good
as the machine was quiet: by both together a width may be emptied that a model lives by (a teacher
of Fashion-MNIST, half of its time at batch 64, a table of a busy machine: right on 34 % of images
after the cut, on 88 % by one ratio for all widths).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from compressc.errors import CompresscError
from compressc.ir import Graph
from compressc.pipeline import Context
from compressc_prune.cutting import Chosen
from compressc_prune.planning import Wish
from compressc_prune.sensitivity import loss_beside
from compressc_prune.targets import WITHIN
from compressc_prune.trials import scratch_copy

#: Ways of sharing a cut out, by the name of the allocation.
TITLES = {"knapsack": "importance and time", "uniform": "one ratio for all widths"}
#: Chooses what to cut, for a wish.
Choose = Callable[[Wish, Context], Chosen]
#: Makes it.
MakeCut = Callable[[Chosen, Graph, Context], None]


def better(wish: Wish, graph: Graph, ctx: Context, choose: Choose, cut: MakeCut) -> Chosen:
    """What to cut for a share of the time: by the wish, or by one ratio for all widths.

    Both cuts are made on a copy and mended. One that misses the share where the other meets it is
    worse; else the one that is further from the uncut answers (mean squared error over their
    variance, on calibration data).

    Args:
        wish: a share of the time.
        graph: not changed.
        ctx: of the pass, with data; gets the notes and records of what is chosen.
        choose: what to cut for a wish.
        cut: makes a cut of a copy of the graph, in place, and mends it.

    Raises:
        CompresscError: CC102 where the wish cannot be met.
    """
    loss = loss_beside(graph, ctx, blind=True)
    tried: dict[str, tuple[Chosen, Context, tuple[bool, float]]] = {}
    for one in (wish, replace(wish, allocation="uniform")):
        own = replace(ctx, notes=[], records={})
        try:
            chosen = choose(one, own)
        except CompresscError as error:
            if not tried or error.code != "CC102":
                raise
            continue  # sizes of one ratio are coarser
        with scratch_copy(graph) as copy:
            cut(chosen, copy, replace(ctx, notes=[], records={}))
            tried[one.allocation] = chosen, own, (_misses(chosen), loss(copy))
    best = min(tried, key=lambda way: tried[way][2])
    chosen, own, _ = tried[best]
    ctx.notes.extend(own.notes)
    ctx.records.update(own.records)
    chosen.plan.ctx = ctx  # what it tells of the cut that is made
    tables = [found[0].plan.latency for found in tried.values()]
    if chosen.plan.latency is not None:  # the second reads what was measured for the first
        chosen.plan.latency.measured_rows = sum(one.measured_rows for one in tables if one)
    if len(tried) > 1:
        ctx.note(graph.name, _told(best, {way: found[2][1] for way, found in tried.items()}))
    return chosen


def _misses(chosen: Chosen) -> bool:
    met, target = chosen.plan.met, chosen.plan.wish.target
    return met is None or target is None or target.off(met.left) > WITHIN


def _told(best: str, losses: Mapping[str, float]) -> str:
    each = ", ".join(f"{losses[way]:.3g} by {TITLES[way]}" for way in losses)
    return f"sizes by {TITLES[best]}: answers are off by {each}"
