"""What an output is computed with: a layer that scores, or one from the middle of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compressc.ir import Graph, Op, TensorType

_SCORING = {"linear", "aten.matmul", "aten.bmm", "aten.mm", "aten.addmm", "aten.einsum"}
#: End a block; what comes out of them goes on to a head in most networks.
_HIDDEN = {
    "aten.embedding",
    "aten.tanh",
    "batch_norm",
    "elu",
    "embedding",
    "gelu",
    "group_norm",
    "hardswish",
    "layer_norm",
    "leaky_relu",
    "mish",
    "relu",
    "relu6",
    "rms_norm",
    "silu",
    "tanh",
}
_POOLS = ("adaptive_avg_pool", "avg_pool", "aten.mean", "aten.adaptive_avg_pool", "aten.avg_pool")
#: Keep scores scores: moved, resized, cut to size, scaled by a constant.
_PASSED = {
    "aten.alias",
    "aten.clone",
    "aten.contiguous",
    "aten.div",
    "aten.flatten",
    "aten.getitem",
    "aten.mul",
    "aten.permute",
    "aten.reshape",
    "aten.select",
    "aten.slice",
    "aten.squeeze",
    "aten.sub",
    "aten.transpose",
    "aten.unflatten",
    "aten.unsqueeze",
    "aten.view",
    "aten._to_copy",
    "dropout",
    "getitem",
}
_MOVES = {"aten.permute", "aten.transpose", "aten.movedim"}


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
        kind = _base(op)
        if kind in _SCORING or kind.startswith(("conv", "aten.conv")):
            first = "conv" in kind and not moved
            return Head("scores", _width(op, 1 if "conv" in kind else -1), first)
        # SqueezeNet rectifies its scores before it pools them
        if kind in ("relu", "relu6") and pooled:
            below = _find(graph, op.inputs[0], False, moved)
            return below if below.kind == "scores" else Head("hidden")
        if kind in _HIDDEN or kind.startswith("batch_norm"):
            return Head("hidden")
        computed = [i for i in op.inputs if graph[i].kind not in ("parameter", "constant")]
        if kind in ("aten.add", "aten.cat") and len(computed) > 1:
            heads = [_find(graph, i, pooled, moved) for i in computed]
            scores = all(head.kind == "scores" for head in heads)
            return heads[0] if scores else Head("hidden")
        pools = kind.startswith(_POOLS)
        if not computed or not (pools or kind in _PASSED | {"aten.add"} or "upsample" in kind):
            return Head("other")
        pooled, moved = pooled or pools, moved or kind in _MOVES
        name = computed[0]


def _width(op: Op, dim: int) -> int | None:
    shape = op.type.shape if isinstance(op.type, TensorType) else ()
    size = shape[dim] if len(shape) > 1 else None
    return size if isinstance(size, int) else None


def _base(op: Op) -> str:
    return ".".join(op.kind.split(".")[:2])
