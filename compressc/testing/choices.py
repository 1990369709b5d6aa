"""`check_choices`: is what a pass offers true, and does it take back what is picked?"""

from __future__ import annotations

import math

from compressc.analysis import beside
from compressc.ir import Graph, graph_hash, verify
from compressc.pipeline import Context, Offer, Pass, TransferSet, seeded
from compressc.tasks import settle

#: Offers that are taken, each alone, evenly spread over all.
TAKEN = 8
#: What is saved may differ by this share from what was said.
WITHIN = 0.01


def check_choices(pass_: Pass, graph: Graph, data: TransferSet) -> list[Offer]:
    """Ask a pass for its choices, take some of them, and compare.

    The graph is not touched by asking, and the same question has the same answer; no part has two
    offers with one pick; losses are finite and not negative; and what is taken alone saves what was
    said of parameters, multiply-accumulates and bytes, and leaves a well-formed graph.

    Args:
        pass_: the pass with its options.
        graph: what it is asked about; see `export_graph`.
        data: the transfer set.

    Returns:
        What the pass offers.

    Raises:
        AssertionError: where any of it does not hold.
        CompresscError: where a graph is broken after a take.
    """
    origin = graph_hash(graph)
    task = settle(graph, data)

    def context() -> Context:
        return Context(graph, data, task=task)

    with seeded(0):
        offers = list(pass_.choices(graph, context()))
    with seeded(0):
        again = list(pass_.choices(graph, context()))
    assert graph_hash(graph) == origin, "the graph was edited by asking"
    keys = [(offer.part, offer.pick) for offer in offers]
    assert len(set(keys)) == len(keys), "a part has two offers with one pick"
    for offer in offers:
        assert math.isfinite(offer.lost), f"{offer.part}: lost is {offer.lost}"
        assert offer.lost >= 0, f"{offer.part}: lost is {offer.lost}"
    assert again == offers, "the same question had another answer"
    count = min(TAKEN, len(offers))
    for place in {i * len(offers) // count for i in range(count)}:
        _check_taken(pass_, graph, context(), offers[place])
    return offers


def _check_taken(pass_: Pass, graph: Graph, context: Context, offer: Offer) -> None:
    """One offer, alone."""
    after = graph.copy()
    with seeded(0):
        pass_.take(after, context, [offer])
    verify(after, like=graph)
    cost = beside(after, graph, context.example())
    for name, said in offer.saved.items():
        left, whole = getattr(cost, name)
        saved = whole - left
        assert abs(saved - said) <= WITHIN * max(abs(said), 1.0), (
            f"{offer.part}, {offer.text}: {saved:,} {name} saved, not {said:,.0f}"
        )
