"""Which blocks can go at the least cost: the one that changes the answers least, step by step."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from compressc.analysis import Chain
from compressc.editing import drop_blocks
from compressc.ir import Graph, lower
from compressc.pipeline import Context
from compressc.tasks import task_of
from compressc.training import answers, scaled_error

#: Samples that answers are held against each other on.
SAMPLES = 128


def cheapest(graph: Graph, chain: Chain, count: int, ctx: Context) -> tuple[list[int], list[float]]:
    """The members that stay, and what each costs alone.

    Of all that are left the member goes without which the answers are nearest to those of the
    graph, until `count` are left (Song et al. 2024, SLEB, arXiv 2402.09025, algorithm 1).

    Args:
        graph: the chain's; not changed.
        chain: its members; those that it holds stay.
        count: how many stay.
        ctx: of the pass; it has data.

    Returns:
        Numbers, ascending; and for each member the squared error of the answers over their variance
        where it goes alone, 0 for one that is held.
    """
    trials = _Trials(graph, chain, ctx)
    free = [number for number in range(len(chain)) if number not in chain.held]
    gone: list[int] = []
    alone = [0.0] * len(chain)
    total = len(chain) - count
    while len(gone) < total:
        ctx.progress("trying without blocks", len(gone), total)
        errors = {n: trials.without([*gone, n]) for n in free if n not in gone}
        if not gone:
            for number, error in errors.items():
                alone[number] = error
        gone.append(min(errors, key=lambda n: (errors[n], n)))
    return [number for number in range(len(chain)) if number not in gone], alone


class _Trials:
    """The answers of a graph without some members."""

    def __init__(self, graph: Graph, chain: Chain, ctx: Context) -> None:
        self.graph, self.chain, self.ctx = graph, chain, ctx
        samples = ctx.require_data("a choice of blocks by what they cost").calibration
        self.inputs = tuple(x.to(ctx.device) for x in samples.take(SAMPLES).inputs)
        self.wanted = answers(self._reader(graph), self.inputs)

    def without(self, gone: Sequence[int]) -> float:
        """Squared error over the variance."""
        trial = self.graph.with_weights(self.graph.tensors())  # nothing is copied
        drop_blocks(trial, self.chain, gone)
        error = float(scaled_error(answers(self._reader(trial), self.inputs), self.wanted))
        return error if error == error else float("inf")  # noqa: PLR0124  (not a number)

    def _reader(self, graph: Graph) -> nn.Module:
        module = graph if self.ctx.device.type == "cpu" else graph.copy()
        return lower(module, also=[task_of(self.ctx).value_in(graph)]).to(self.ctx.device).eval()
