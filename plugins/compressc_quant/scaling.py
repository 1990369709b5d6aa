"""Multiplying what layers read by a factor per channel, which their weights are divided by."""

from __future__ import annotations

import torch
from torch import nn

from compressc.ir import Graph, Op, Ref, Tensor


def scaled(graph: Graph, source: str, factor: torch.Tensor, readers: int) -> str:
    """The value times a factor for each index of its last dimension.

    A norm takes the factor into its own gain where nothing else reads it; else a multiplication is
    inserted.

    Args:
        graph: edited in place.
        source: name of the value.
        factor: one for each index, in the shape that multiplies the value.
        readers: how many ops will read what is scaled.

    Returns:
        The name of the value that is scaled now.
    """
    if len(graph.users(source)) == readers and _absorb(graph, graph[source], factor):
        return source
    stem = graph.fresh_name(f"{source}.smooth")
    type_ = type(graph.type_of(source))(factor.dtype, tuple(factor.shape))
    constant = Op(f"{stem}.factor", "constant", layer=Tensor(factor), type=type_)
    graph.insert_after(source, constant)
    product = Op(
        stem, "aten.mul.Tensor", (Ref(source), Ref(constant.name)), type=graph.type_of(source)
    )
    return graph.insert_after(constant.name, product).name


def _absorb(graph: Graph, op: Op, factor: torch.Tensor) -> bool:
    """Let a norm that only these layers read multiply by the factor in its own gain.

    It ends in `gain * x + bias` along the last dimension, as the factors lie.
    """
    if op.role != "layer_norm" or op.name in graph.output_names:
        return False
    assert op.layer is not None
    own = op.layer._parameters  # replaced, not written to: another norm may be tied to it
    if own.get("weight") is None:
        return False
    for name, value in own.items():
        if value is not None:
            own[name] = nn.Parameter(value.detach() * factor.reshape(-1))
    return True
