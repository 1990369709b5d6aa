"""Fewer blocks: which of them stay, the cut, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass

from compressc.analysis import Chain, find_blocks, find_chains
from compressc.depth.choosing import (
    Pick,
    choose_chains,
    count_kept,
    given_members,
    numbers,
    pick_members,
)
from compressc.depth.costs import cheapest
from compressc.depth.likeness import likeness
from compressc.editing import drop_blocks
from compressc.ir import Graph
from compressc.pipeline import Context
from compressc.training import reestimate_behind


@dataclass(frozen=True)
class Depth:
    """How much of each chain stays.

    Attributes:
        share: of its blocks; None where `keep` says which.
        keep: numbers of the blocks, or None.
        pick: which ones, where `share` says how many.
        blocks: part of the name of the chains that are cut.
        name: of the pass, for messages.
        hint: what else could be done where no block can go.
    """

    share: float | None
    keep: tuple[int, ...] | None
    pick: Pick
    blocks: str
    name: str
    hint: str

    def cut(self, graph: Graph, ctx: Context) -> None:
        """Take out the blocks that do not stay, with a note for each chain.

        Batch norms behind a gap take new statistics.

        Raises:
            CompresscError: CC105 where nothing repeats, or cannot go; CC102 for a block that is not
                there.
        """
        chains = choose_chains(
            find_chains(graph), find_blocks(graph), self.blocks, self.name, self.hint
        )
        choices = [(chain, self._kept(graph, chain, ctx)) for chain in chains]
        joined: list[str] = []
        for chain, stay in choices:
            gone = [number for number in range(len(chain)) if number not in stay]
            if not gone:
                ctx.note(chain.members[0][0], f"all {len(chain)} blocks of {chain.name} stay")
                continue
            joined += drop_blocks(graph, chain, gone)
            text = f"{chain.name}: kept blocks {numbers(stay)}, dropped {numbers(gone)}"
            ctx.note(chain.members[stay[0]][0], text)
            for number, reason in chain.held.items():
                ctx.note(chain.members[number][0], f"block {number} cannot go: {reason}")
        if joined:
            reestimate_behind(graph, [name for name in joined if name in graph], ctx)

    def _kept(self, graph: Graph, chain: Chain, ctx: Context) -> list[int]:
        """The members that stay."""
        if self.keep is not None:
            return given_members(chain, self.keep, self.name)
        assert self.share is not None
        count = count_kept(chain, self.share)
        if self.pick == "costs" and count < len(chain):
            stay, alone = cheapest(graph, chain, count, ctx)
            self._tell(chain, "costs", "errors of the answers without a block alone", alone, ctx)
            return stay
        if self.pick != "similar" or count == len(chain):
            measured = self.pick in ("similar", "costs")
            return pick_members(chain, count, "spread" if measured else self.pick)
        samples = ctx.require_data(f"{self.name}(pick=similar)").calibration
        found = likeness(graph, chain, samples, ctx.device)
        self._tell(chain, "likeness", "cosines of what blocks take and give", found, ctx)
        return pick_members(chain, count, self.pick, found)

    def _tell(self, chain: Chain, of: str, title: str, found: list[float], ctx: Context) -> None:
        """What was measured of each block, for programs and for people."""
        ctx.record(f"{of} of {chain.name}", found)
        texts = ", ".join(f"{value:.3f}" for value in found)
        ctx.note(chain.members[0][0], f"{title}: {texts}")
