"""A compressc plugin in one file: the `sparsify24` pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from compressc.ir import Graph, Op
from compressc.pipeline import Context, Pass, Verdict


class Sparsify24(Pass):
    """Keep the two largest of every four neighbouring weights of a linear layer.

    The pattern that NVIDIA's sparse tensor cores run (Mishra et al. 2021, arXiv 2104.08378); on
    other hardware it makes files compress better, and no kernel faster.

    Legal where the input width is a multiple of 4. Cost: half of the smallest weights.
    """

    name: ClassVar[str] = "sparsify24"
    needs: ClassVar[frozenset[str]] = frozenset()
    reads_target: ClassVar[frozenset[str]] = frozenset()
    before: ClassVar[Mapping[str, str]] = {
        "quant": "int8 weights are rounded, so that the smallest cannot be told",
    }
    after: ClassVar[Mapping[str, str]] = {
        "prune": "cutting columns moves the groups of four",
        "distill": "training fills the zeros again",
    }

    least_width: Annotated[int, Field(ge=4)] = 16
    """Leave layers with fewer inputs than this alone."""

    def run(self, graph: Graph, ctx: Context) -> None:
        """Zero half of each linear weight; say what was left alone, and why."""
        for op in graph:
            verdict = self._verdict(op)
            if verdict.outcome == "does":
                layer: Any = op.layer
                with torch.no_grad():
                    layer.weight.mul_(mask24(layer.weight))
                graph.set_layer(op.name, layer)
            if verdict.outcome != "idle":
                ctx.note(op.name, verdict.text)

    def coverage(self, graph: Graph, ctx: Context) -> Mapping[str, Verdict]:
        """What `compressc inspect --coverage` shows: by the very function that `run` decides by."""
        return {op.name: self._verdict(op) for op in graph}

    def _verdict(self, op: Op) -> Verdict:
        if not isinstance(op.layer, torch.nn.Linear):
            return Verdict.idle("no linear layer")
        width = op.layer.in_features
        if width % 4 or width < self.least_width:
            return Verdict.cannot(f"skipped: {width} inputs")
        return Verdict.does("2 of every 4 weights are zero", "weight")


def mask24(weight: torch.Tensor) -> torch.Tensor:
    """1 at the two largest magnitudes of every four along the last dimension, else 0.

    Args:
        weight: [out, in], `in` a multiple of 4.
    """
    groups = weight.detach().abs().unflatten(-1, (-1, 4))
    kept = groups.topk(2, dim=-1).indices
    return torch.zeros_like(groups).scatter_(-1, kept, 1.0).flatten(-2)
