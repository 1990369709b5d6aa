"""Students that begin apart: weights drawn anew, or moved at random."""

from __future__ import annotations

import torch

from compressc.ir import Graph
from compressc.pipeline import Context


def renew(graph: Graph, ctx: Context, seed: int) -> None:
    """Draw the weights of every layer anew, as torch does for a new one; a note on what stays.

    Args:
        graph: edited in place.
        ctx: is told.
        seed: of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for op in graph:
            for part in op.layer.modules() if op.layer is not None else ():
                reset = getattr(part, "reset_parameters", None)
                if callable(reset):
                    reset()
                elif any(True for _ in part.parameters(recurse=False)):
                    ctx.note(op.name, "keeps its weights: nothing says how to draw new ones")


def move(graph: Graph, share: float, seed: int) -> None:
    """Add normal noise to the weights of every layer: matrices and filters, not biases and norms.

    Args:
        graph: edited in place.
        share: the noise's standard deviation, of that of each weight.
        seed: of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for op in graph:
            for weight in op.layer.parameters() if op.layer is not None else ():
                if weight.ndim > 1 and weight.is_floating_point():
                    noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
                    weight.add_(share * weight.std() * noise)
