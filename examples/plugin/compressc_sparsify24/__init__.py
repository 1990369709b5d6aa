"""A compressc plugin in one file: the `sparsify24` pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from compressc.ir import Graph
from compressc.pipeline import Context, Pass


class Sparsify24(Pass):
    """Keep the two largest of every four neighbouring weights of a linear layer.

    The pattern that NVIDIA's sparse tensor cores run (Mishra et al. 2021, arXiv 2104.08378); on
    other hardware it makes files compress better, and no kernel faster.

    Legal where the input width is a multiple of 4. Cost: half of the smallest weights.
    """

    name: ClassVar[str] = "sparsify24"
    needs: ClassVar[frozenset[str]] = frozenset()
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
            if op.kind != "linear":
                continue
            layer: Any = op.layer
            width = layer.in_features
            if width % 4 or width < self.least_width:
                ctx.note(op.name, f"skipped: {width} inputs")
                continue
            with torch.no_grad():
                layer.weight.mul_(mask24(layer.weight))
            graph.set_layer(op.name, layer)
            ctx.note(op.name, "2 of every 4 weights are zero")


def mask24(weight: torch.Tensor) -> torch.Tensor:
    """1 at the two largest magnitudes of every four along the last dimension, else 0.

    Args:
        weight: [out, in], `in` a multiple of 4.
    """
    groups = weight.detach().abs().unflatten(-1, (-1, 4))
    kept = groups.topk(2, dim=-1).indices
    return torch.zeros_like(groups).scatter_(-1, kept, 1.0).flatten(-2)
