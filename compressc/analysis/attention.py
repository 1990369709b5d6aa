"""Attention layers of a graph: what they ask with, what they ask, and what they hand on.

Fused ones are a call of `scaled_dot_product_attention`. Written-out ones are found from their
softmax: above it scores, two values multiplied, perhaps scaled and masked; below it the product
with the values. Scaling of the queries before the product is left in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch

from compressc.analysis.arguments import argument
from compressc.ir import Graph, Op, Ref, TensorType

_PRODUCTS = frozenset({"aten.matmul", "aten.bmm"})
_SOFTMAXES = frozenset({"aten.softmax", "aten._softmax"})
#: What probabilities go through on their way to the values, and scores on theirs.
_PASSED = frozenset({"same", "cast", "reshape", "ones"})


#: How a mask works: added to the products, or true where attention may go, or where it may not.
MaskKind = Literal["added", "allowed", "forbidden"]
#: What is filled in where attention may not go is no larger.
LOW = -100.0


@dataclass(frozen=True)
class Mask:
    """The name of a value that says where attention goes, and how it says so."""

    name: str
    kind: MaskKind


@dataclass(frozen=True)
class AttentionLayer:
    """Names of the values that an attention layer works with.

    Attributes:
        name: of what it hands on, the weighted means of its values.
        query: `[b, heads, s, d]`, or `[b * heads, s, d]`.
        key, value: likewise; key and value may have fewer heads, each for several of the query.
        scale: factor on the products; None for 1 / sqrt(d).
        masks: of the products after scaling; they broadcast to `[b, heads, s, s]`.
        causal: a position sees itself and those before it.
        key_transposed: the key is `[..., d, s]`.
    """

    name: str
    query: str
    key: str
    value: str
    scale: float | None = None
    masks: tuple[Mask, ...] = ()
    causal: bool = False
    key_transposed: bool = False

    @property
    def values(self) -> tuple[str, ...]:
        """All names that are to be read."""
        return self.query, self.key, self.value, *(mask.name for mask in self.masks)


def find_attention(graph: Graph) -> list[AttentionLayer]:
    """Every attention layer, in the order of the graph."""
    found = []
    for op in graph:
        if op.packet == "aten.scaled_dot_product_attention":
            found.append(_fused(graph, op))
        elif op.packet in _PRODUCTS:
            layer = _written_out(graph, op)
            if layer is not None:
                found.append(layer)
    return found


def _fused(graph: Graph, op: Op) -> AttentionLayer:
    query, key, value = (ref.name for ref in op.args[:3])
    mask = argument(op, "attn_mask")
    masks: tuple[Mask, ...] = ()
    if isinstance(mask, Ref):
        kind: MaskKind = "allowed" if graph.type_of(mask.name).dtype == torch.bool else "added"
        masks = (Mask(mask.name, kind),)
    causal, scale = bool(argument(op, "is_causal")), argument(op, "scale")
    return AttentionLayer(op.name, query, key, value, scale, masks, causal)


def _written_out(graph: Graph, op: Op) -> AttentionLayer | None:
    """The layer whose probabilities this product multiplies with the values."""
    softmax = _softmax_above(graph, op.inputs[0])
    if softmax is None:
        return None
    scores = next(iter(softmax.inputs), "")
    found = _scores(graph, scores, AttentionLayer(op.name, "", "", op.inputs[1], 1.0))
    return found if found is not None and _is_as_large(graph, found) else None


def _softmax_above(graph: Graph, name: str) -> Op | None:
    """Of the last dimension."""
    for op in _chain(graph, name):
        if op.packet in _SOFTMAXES:
            last = _rank(graph, op.name) - 1
            return op if argument(op, "dim") in (-1, last) else None
        if op.role != "dropout" and op.move not in _PASSED:
            return None
    return None


def _scores(graph: Graph, name: str, layer: AttentionLayer) -> AttentionLayer | None:
    """The layer with what is above its softmax; None where no product is."""
    for op in _chain(graph, name):
        if op.packet in _PRODUCTS:
            query, key = op.inputs
            return replace(layer, query=query, key=key, key_transposed=True)
        masked = list(_masked(op))
        if masked and layer.scale == 1.0:  # else the mask would be scaled, too
            found = (
                _scores(graph, scores, replace(layer, masks=(*layer.masks, mask)))
                for scores, mask in masked
            )
            return next((x for x in found if x is not None), None)
        factor = _factor(op)
        if factor is not None:
            layer = replace(layer, scale=(layer.scale or 1.0) * factor)
        elif op.move not in _PASSED:
            return None
    return None


def _masked(op: Op) -> Iterator[tuple[str, Mask]]:
    """Scores and their mask, in each way that a call may be read."""
    refs = [arg.name for arg in op.args if isinstance(arg, Ref)]
    if op.packet == "aten.add" and len(refs) == 2 and argument(op, "alpha") in (1, None):
        yield refs[0], Mask(refs[1], "added")
        yield refs[1], Mask(refs[0], "added")
    elif op.packet == "aten.masked_fill" and len(refs) == 2 and op.args[2] <= LOW:
        yield refs[0], Mask(refs[1], "forbidden")
    elif op.packet == "aten.where" and len(refs) == 3:
        yield refs[1], Mask(refs[0], "allowed")
        yield refs[2], Mask(refs[0], "forbidden")


def _factor(op: Op) -> float | None:
    """What the call multiplies its first operand by, where that is a number."""
    if op.packet not in ("aten.mul", "aten.div") or not isinstance(op.args[1], int | float):
        return None
    return float(op.args[1] if op.packet == "aten.mul" else 1 / op.args[1])


def _chain(graph: Graph, name: str) -> Iterator[Op]:
    """An op, the one that makes its first operand, and so on."""
    while True:
        op = graph[name]
        yield op
        if not op.inputs:
            return
        name = op.inputs[0]


def _rank(graph: Graph, name: str) -> int:
    type_ = graph[name].type
    return len(type_.shape) if isinstance(type_, TensorType) else 0


def _is_as_large(graph: Graph, layer: AttentionLayer) -> bool:
    """Whether query, key and value are all batches of matrices of one rank."""
    ranks = {_rank(graph, name) for name in (layer.query, layer.key, layer.value)}
    return ranks <= {3} or ranks <= {4}
