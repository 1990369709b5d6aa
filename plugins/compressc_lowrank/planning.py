"""What becomes of a layer: the schemes that are legal for it, what they cost, when they pay."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from compressc.analysis.matrices import is_recurrent_weight
from compressc.ir import Graph, Op, TensorType, evaluate
from compressc_lowrank.matrices import matrix_names
from compressc_lowrank.schemes import SCHEMES, Cost, Ranks, Scheme

#: Schemes that a plan does not name: no other one is legal for such a layer.
_PLAIN = ("svd", "embedding", "recurrent")


@dataclass(frozen=True)
class Plan:
    """How a layer is taken apart; its text is `3 of 24`, for k x k with the scheme."""

    scheme: Scheme
    ranks: Ranks
    full: Ranks

    def __str__(self) -> str:
        pairs = zip(self.ranks, self.full, strict=True)
        text = " and ".join(f"{rank} of {most}" for rank, most in pairs)
        return text if self.scheme.name in _PLAIN else f"{text} ({self.scheme.name})"


def candidates(graph: Graph, op: Op, names: Collection[str]) -> list[Scheme] | str:
    """The schemes of these names that can take a layer apart, or why none can."""
    layer: Any = op.layer
    if is_recurrent_weight(graph, op):
        return "a weight of a recurrent layer, which takes whole matrices alone"
    kinds = [scheme for scheme in SCHEMES if op.kind in scheme.kinds]
    if op.kind == "parameter":
        return "a matrix that is multiplied with by a call, no layer"
    if not kinds:
        return f"{op.kind} is no linear layer, convolution or table"
    fitting = [scheme for scheme in kinds if scheme.fits(layer)]
    chosen = [scheme for scheme in fitting if scheme.name in names]
    if not chosen:
        return f"left to {' or '.join(scheme.name for scheme in fitting)}, which is not asked for"
    reason = next(filter(None, (scheme.obstacle(layer) for scheme in chosen)), "")
    held = (getattr(layer, name) for name in matrix_names(layer))
    if not reason and any(len(graph.holders(tensor)) > 1 for tensor in held):
        reason = "its weight is tied to another layer"
    return reason or chosen


def places(graph: Graph, op: Op, scheme: Scheme, sizes: Mapping[str, int]) -> list[int]:
    """How often the weights of an op, and then those of each link of its chain, are used in a run.

    Args:
        graph: holds the op.
        op: to be taken apart.
        scheme: that does it.
        sizes: of the open dimensions.
    """
    env = graph.size_env(**sizes)

    def shape(type_: object) -> list[int]:
        assert isinstance(type_, TensorType)
        return [int(evaluate(size, env)) for size in type_.shape]

    if op.role == "recurrent":
        return [prod(shape(graph.type_of(op.inputs[0]))[:-1])] * 3
    out, moved = shape(op.type), scheme.moved(op.layer)
    dims = len(getattr(op.layer, "kernel_size", ()))
    if not dims:
        count = prod(out[:-1])
        if op.role == "embedding":  # a table is read, not multiplied
            return [0, 0, count]
        return [count] * (1 + len(moved))
    before = shape(graph.type_of(op.inputs[0]))[-dims:]
    lead, after = out[: -dims - 1], out[-dims:]
    return [prod(lead + after), *(prod(lead + after[:m] + before[m:]) for m in moved)]


def too_wide(weights: Cost, macs: Cost, ranks: Ranks, limit: float) -> str:
    """Why ranks are no gain, or nothing: weights and products must both be fewer."""
    if weights.of(ranks) >= limit * weights.dense:
        if len(ranks) == 1:
            return f"rank {ranks[0]} is not below {limit} of break-even {weights.break_even:.1f}"
        share = weights.of(ranks) / weights.dense
        return f"ranks {ranks[0]} and {ranks[1]} leave {share:.0%} of its weights"
    if macs.dense > 0 and macs.of(ranks) >= limit * macs.dense:
        share = macs.of(ranks) / macs.dense
        return f"rank {ranks[0]} leaves {share:.0%} of its multiply-accumulates"
    return ""
