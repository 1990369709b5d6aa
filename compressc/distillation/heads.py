"""The last values of a model that weights have a part in: what it says before it is decoded.

What comes behind them (softmax, boxes from offsets, suppression, argmax) has nothing to learn, and
often no gradient. Matching the heads needs neither labels nor to know what an output means, so it
does for detectors and any other model of several outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from compressc.ir import Graph, Op, TensorType


def find_heads(graph: Graph, outputs: Sequence[str] | None = None) -> list[str]:
    """Names of the last ops with weights on each path to an output, in the order of the graph.

    They are floats with a row for each sample; where an op is none, its own inputs are looked at.

    Args:
        graph: of either side.
        outputs: names of ops that are put out; all where none are given.
    """
    found: set[str] = set()
    seen: set[str] = set()
    waiting = list(graph.output_names if outputs is None else outputs)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if _is_head(graph, graph[name]):
            found.add(name)
        else:
            waiting += graph[name].inputs
    return [op.name for op in graph if op.name in found]


def _is_head(graph: Graph, op: Op) -> bool:
    weighted = op.layer is not None and any(
        isinstance(p, torch.nn.Parameter) for p in op.layer.parameters()
    )
    return weighted and isinstance(op.type, TensorType) and _by_sample(graph, op.type)


def _by_sample(graph: Graph, type_: TensorType) -> bool:
    """Whether it is of floats, with the dimension of samples in front."""
    batch = [x.type.shape[0] for x in graph.inputs if isinstance(x.type, TensorType)][:1]
    return type_.dtype.is_floating_point and list(type_.shape[:1]) == batch
