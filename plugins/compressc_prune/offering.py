"""What pruning offers: each width at a few sizes, what that saves and does to the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compressc.analysis import beside
from compressc.analysis.beside import Beside
from compressc.pipeline import Context, Offer
from compressc.training import reestimate_behind
from compressc_prune.alike import Alike
from compressc_prune.allocation import Sizes, chosen
from compressc_prune.planning import Plan
from compressc_prune.sensitivity import loss_beside, sizes_of
from compressc_prune.trials import cut_copy
from compressc_prune.verdicts import what


def offers(plan: Plan, ctx: Context, statistics: bool) -> list[Offer]:
    """Widths of a graph at the sizes that sensitivity is measured at, each cut alone.

    Nothing is fitted anew but, where it is asked for, the statistics of batch norms.

    Args:
        plan: of the graph; which indices go first.
        ctx: of the pass; it has data.
        statistics: whether batch norms take new statistics.
    """
    graph, found, rounding = plan.graph, plan.found, plan.wish.rounding
    loss, quiet = loss_beside(graph, ctx, blind=True), replace(ctx, notes=[], records={})
    made = []
    for number, (part, kind) in enumerate(named(plan.alike).items()):
        ctx.progress("trying widths", number, len(plan.alike))
        for size in sizes_of(kind, rounding):
            with cut_copy(graph, found, chosen({kind: size}, plan.scores)) as copy:
                if statistics:
                    changed = {slot.op for width in kind for slot in width.slots}
                    reestimate_behind(copy, changed, quiet)
                saved = _saved(beside(copy, graph, ctx.example()))
                lost = loss(copy)
            text = f"{size} of {kind[0].size} {what(kind[0])}"
            made.append(Offer(part, size, text, saved, lost))
    return made


def sizes_picked(plan: Plan, picked: Sequence[Offer], ctx: Context) -> Sizes:
    """The sizes of offers that still fit, with a note on the others."""
    kinds, sizes = named(plan.alike), dict[Alike, int]()
    for offer in picked:
        kind = kinds.get(offer.part)
        if kind is None or int(offer.pick) >= kind[0].size:
            ctx.note(offer.part, f"not taken: there is no such width of more than {offer.pick}")
        else:
            sizes[kind] = int(offer.pick)
    return sizes


def named(alike: Sequence[Alike]) -> dict[str, Alike]:
    """Widths by the ops that make them, and by their kind where these make several."""
    found: dict[str, Alike] = {}
    for kind in alike:
        made = ", ".join(dict.fromkeys(name for width in kind for name in width.producers))
        part = made if made not in found else f"{made}: {what(kind[0])}"
        found[part if part not in found else f"{part} {len(found)}"] = kind
    return found


def _saved(cost: Beside) -> dict[str, float]:
    pairs = {"parameters": cost.parameters, "macs": cost.macs, "bytes": cost.bytes}
    return {name: float(whole - left) for name, (left, whole) in pairs.items()}
