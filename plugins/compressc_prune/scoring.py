"""Scores for the indices of widths, by any installed importance."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch

from compressc.analysis import Coupling, Width
from compressc.importance import Importance, Together
from compressc.ir import Graph
from compressc.pipeline import Context
from compressc_prune.measured import Measured, measure
from compressc_prune.members import members_of


class Scorer:
    """Scores widths of one graph.

    Args:
        graph: the graph to be pruned.
        found: its coupling.
        importance: what indices are ranked by.
        ctx: gives the calibration data that the importance may read.
    """

    def __init__(self, graph: Graph, found: Coupling, importance: Importance, ctx: Context) -> None:
        self.graph, self.found, self.importance, self.ctx = graph, found, importance, ctx

    def score_all(self, widths: Iterable[Width]) -> dict[Width, torch.Tensor]:
        """Importance f32[width.size] of each, on a scale on which widths can be compared."""
        measured = measure(self.graph, self.importance.reads, self.ctx)
        return {width: self._score(width, measured) for width in widths}

    @torch.no_grad()
    def _score(self, width: Width, measured: Measured) -> torch.Tensor:
        members = members_of(self.graph, self.found, width, measured)
        together = Together(width.size, members, self._generator(width))
        score = self.importance.score(together).float()
        return score if self.importance.comparable else score / score.mean().clamp_min(1e-12)

    def _generator(self, width: Width) -> torch.Generator:
        """By the run's seed and where the width is: not by what was scored before."""
        text = f"{self.ctx.seed} {width.slots[0].op} {width.slots[0].tensor} {width.slots[0].dim}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        return torch.Generator().manual_seed(seed)
