"""What factorization offers: each layer at a few ranks, what that saves and does to the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compressc.ir import Graph
from compressc.pipeline import Context, Offer, lower_hull
from compressc_lowrank.matrices import matrix_of
from compressc_lowrank.planning import Plan, too_wide
from compressc_lowrank.ranking import Priced, Rule, legal_schemes, weigh

#: Ranks of a layer that are offered, at most.
MOST = 5


def offers(graph: Graph, rule: Rule, sizes: Mapping[str, int], ctx: Context) -> list[Offer]:
    """Ranks of each layer: those that lose least for their cost, evenly spread.

    Args:
        graph: not changed.
        rule: which schemes may be.
        sizes: of the open dimensions.
        ctx: of the pass; it has data.
    """
    legal = legal_schemes(graph, rule, sizes)
    made = []
    for name, menu in weigh(graph, _listed(legal), rule, ctx):
        rows = lower_hull(menu.rows, lambda row: (row.weights, row.lost))
        last = len(rows) - 1
        count = min(MOST, len(rows))
        for place in dict.fromkeys(round(i * last / max(1, count - 1)) for i in range(count)):
            row = rows[place]
            fewer = menu.weights - row.weights
            wide = matrix_of(graph[name].layer).element_size()
            saved = {
                "parameters": float(fewer),
                "macs": float(menu.macs - row.macs),
                "bytes": float(fewer * wide),
            }
            made.append(Offer(name, _written(row.plan), f"rank {row.plan}", saved, row.lost))
    return made


def plans_picked(
    graph: Graph, rule: Rule, sizes: Mapping[str, int], picked: Sequence[Offer], ctx: Context
) -> dict[str, Plan]:
    """How the layers that were picked are taken apart, with a note on those that no longer are."""
    legal = _listed(legal_schemes(graph, rule, sizes))
    found = {}
    for offer in picked:
        scheme, *ranks = str(offer.pick).split()
        wanted = tuple(map(int, ranks))
        fitting = [one for one in legal.get(offer.part, []) if one.scheme.name == scheme]
        if not fitting:
            ctx.note(offer.part, f"not taken: no layer for {offer.pick}")
            continue
        (one,) = fitting
        reason = too_wide(one.weights, one.macs, wanted, rule.limit)
        if reason:
            ctx.note(offer.part, f"not taken: {reason}")
        else:
            found[offer.part] = one.plan(graph[offer.part], wanted)
    return found


def _written(plan: Plan) -> str:
    """`svd 12`."""
    return " ".join([plan.scheme.name, *map(str, plan.ranks)])


def _listed(legal: Mapping[str, list[Priced] | str]) -> dict[str, list[Priced]]:
    return {name: some for name, some in legal.items() if not isinstance(some, str)}
