"""Taking an earlier answer where it is sure."""

from __future__ import annotations

from compressc.ir import Graph, Op, Ref


def choose_early(graph: Graph, early: str, late: str, threshold: float) -> str:
    """Let everyone who reads `late` read `early` in the rows where that is sure.

    Sure is a row of class scores whose softmax gives its best class `threshold` or more. The new
    value stands for the teacher value that `late` stands for. Types are re-derived by the caller.

    Args:
        graph: edited in place.
        early, late: names of class scores `[b, c]`; `early` comes first in the graph.
        threshold: between 0 and 1.

    Returns:
        The name of what is read now; see `compressc.analysis.EarlyExit`.
    """
    names = [graph.fresh_name(f"{early}.{part}") for part in ("shares", "best", "sure", "choice")]
    shares, best, sure, choice = names
    before = early
    for op in (
        Op(shares, "aten.softmax.int", (Ref(early), -1)),
        Op(best, "aten.amax", (Ref(shares), (-1,), True)),
        Op(sure, "aten.ge.Scalar", (Ref(best), threshold)),
    ):
        graph.insert_after(before, op)
        op.lineage = ()  # they stand for nothing that the teacher has
        before = op.name
    type_ = graph.type_of(late)
    op = Op(choice, "aten.where.self", (Ref(sure), Ref(early), Ref(late)), type=type_)
    graph.insert_after(late, op)
    op.kept = dict(graph[late].kept)
    graph.redirect(late, choice, but=[choice])
    return choice
