"""How far a rounded graph's outputs are from the float graph's, in words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils import _pytree as pytree

from compressc.ir import Graph, lower
from compressc.measure import fidelity

#: Below it, a warning: 60 degrees off.
_LEAST_COSINE = 0.5


def outputs_of(graph: Graph, inputs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """What a graph returns; numbers without dimensions are left out."""
    with torch.no_grad():
        return [x for x in pytree.tree_leaves(lower(graph)(*inputs)) if x.dim() and x.numel()]


def distance(got: Sequence[torch.Tensor], want: Sequence[torch.Tensor]) -> float:
    """Of the worst output, the root of its mean square error, as a share of what it should be."""
    pairs = zip(got, want, strict=True)
    return max([0.0, *(fidelity(*pair).relative_rms_error for pair in pairs)])


def distance_text(got: Sequence[torch.Tensor], want: Sequence[torch.Tensor]) -> str:
    """How far the worst output is from the float graph's: what is lost is said at once."""
    found = [fidelity(*pair) for pair in zip(got, want, strict=True)]
    if not found:
        return "no output to compare"
    worst = max(found, key=lambda f: f.relative_rms_error)
    lost = "; the outputs have little left of the model's" if worst.cosine < _LEAST_COSINE else ""
    return f"outputs off by {worst.relative_rms_error:.1%}, cosine {worst.cosine:.4f}{lost}"
