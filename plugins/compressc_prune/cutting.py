"""One cut of a graph: what was chosen, and making it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from compressc.analysis import Axis, Coupling, Width
from compressc.editing import cut_widths
from compressc.ir import Graph
from compressc.pipeline import Context
from compressc.training import reestimate_behind
from compressc_prune.planning import Plan
from compressc_prune.refit import Cut, Manner, refit


@dataclass(frozen=True)
class Chosen:
    """What is to be cut.

    Attributes:
        uncut: a copy of the graph before the cut.
        found: its coupling.
        plan: how it was chosen.
        refused: leaf axis of each width -> why it must not be cut, or nothing.
        kept: width -> indices that stay; the others lose nothing.
    """

    uncut: Graph
    found: Coupling
    plan: Plan
    refused: Mapping[Axis, str]
    kept: Mapping[Width, Tensor]

    def cut(self, graph: Graph, ctx: Context, manner: Manner | None, statistics: bool) -> None:
        """Make it, and mend what reads a cut width.

        Args:
            graph: that of the choice; edited in place.
            ctx: of the pass.
            manner: how hard to fit layers anew; None for not at all.
            statistics: whether batch norms take new statistics.
        """
        cut = {width.axis: indices for width, indices in self.kept.items()}
        cut_widths(graph, self.found, cut)
        if manner is not None:
            refit(graph, Cut(self.uncut, self.found, cut), ctx, manner)
        if statistics:
            reestimate_behind(graph, {slot.op for width in self.kept for slot in width.slots}, ctx)
