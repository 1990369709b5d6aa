"""What an output is computed with: a layer that scores, or one from the middle of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compressc.ir import NORMS, Graph, Op, TensorType

_CONVOLUTIONS = ("convolution", "transposed_convolution")
_SCORING = {"aten.matmul", "aten.bmm", "aten.mm", "aten.addmm", "aten.einsum"}
#: Ends of a block; what comes out of them goes on to a head in most networks.
_HIDDEN = NORMS | {"embedding", "activation"}
_HIDDEN_CALLS = {"aten.embedding", "aten.tanh"}
#: Activations that make scores into shares or rates: no block ends in them.
_LINKS = {"sigmoid", "hardsigmoid", "softplus"}
_POOLS = ("aten.mean", "aten.adaptive_avg_pool", "aten.avg_pool")
#: Keep scores scores, as a move does: scaled and shifted by a constant.
_SCALED = {"aten.add", "aten.div", "aten.mul", "aten.sub"}


@dataclass(frozen=True)
class Head:
    """Where an output comes from.

    Attributes:
        kind: `scores` (a linear layer, a convolution, a product of matrices), `hidden` (a norm, an
            activation, a residual sum) or `other`.
        width: what the layer puts out for each position; None where it is not known.
        channels_first: whether the layer's output has it in the second dimension.
    """

    kind: Literal["scores", "hidden", "other"]
    width: int | None = None
    channels_first: bool = False


def find_head(graph: Graph, output: str) -> Head:
    """What computes the output of that name."""
    return _find(graph, output, pooled=False, moved=False)


def _find(graph: Graph, name: str, pooled: bool, moved: bool) -> Head:
    while True:
        op = graph[name]
        convolves = op.role in _CONVOLUTIONS or op.packet.startswith("aten.conv")
        if convolves or op.role == "linear" or op.packet in _SCORING:
            return Head("scores", _width(op, 1 if convolves else -1), convolves and not moved)
        # SqueezeNet rectifies its scores before it pools them
        if op.kind in ("relu", "relu6") and pooled:
            below = _find(graph, op.inputs[0], False, moved)
            return below if below.kind == "scores" else Head("hidden")
        if (op.role in _HIDDEN and op.kind not in _LINKS) or op.packet in _HIDDEN_CALLS:
            return Head("hidden")
        computed = [i for i in op.inputs if graph[i].role != "tensor"]
        if op.packet in ("aten.add", "aten.cat") and len(computed) > 1:
            heads = [_find(graph, i, pooled, moved) for i in computed]
            scores = all(head.kind == "scores" for head in heads)
            return heads[0] if scores else Head("hidden")
        pools = op.role == "average_pool" or op.packet.startswith(_POOLS)
        passes = op.move is not None or op.packet in _SCALED or "upsample" in op.kind
        if not computed or not (pools or passes):
            return Head("other")
        pooled, moved = pooled or pools, moved or op.move == "reorder"
        name = computed[0]


def _width(op: Op, dim: int) -> int | None:
    shape = op.type.shape if isinstance(op.type, TensorType) else ()
    size = shape[dim] if len(shape) > 1 else None
    return size if isinstance(size, int) else None
