"""What a graph's integers ask of the processor that a file of it runs on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from compressc.ir import PRODUCTS, Graph, Op
from compressc.ir.quantized import DEQUANTIZE, QUANTIZE, stored_shapes

#: u8 * s8 in pairs: 2 * 255 * 64 is below 2^15; with a weight of 65 it is not.
HALF_RANGE = 64
#: What weights beyond it need on x86; processors of ARM add in 32 bits.
VNNI = "VNNI where the processor is x86"


def is_quantized(graph: Graph) -> bool:
    """Whether any value or weight of the graph is stored as integers."""
    return rounds_values(graph) or any(op.weight_form is not None for op in graph)


def rounds_values(graph: Graph) -> bool:
    """Whether values are rounded to integers when the model runs, not its weights alone."""
    return any(op.kind in (QUANTIZE, DEQUANTIZE) or op.input_form is not None for op in graph)


def integer_layers(graph: Graph) -> Iterator[Op]:
    """Layers with an int8 weight that read int8 values: what a runtime may compute in integers."""
    for op in graph:
        computes = op.int8 and op.role in (*PRODUCTS, "recurrent")
        dynamic = op.input_form is not None
        if computes and (dynamic or any(is_integer(graph, name) for name in op.inputs)):
            yield op


def is_integer(graph: Graph, name: str) -> bool:
    """Whether a value is a dequantized one, maybe moved about since."""
    op = graph[name]
    while moves_integers(op):
        op = graph[op.inputs[0]]
    return op.kind == DEQUANTIZE


def moves_integers(op: Op) -> bool:
    """Whether an op hands on what it reads, so that int8 kernels run behind it, too.

    Zeros beside it are integers, too: the range of a quantized value holds zero.
    """
    return op.picks or op.role == "max_pool"


def full_range_layers(graph: Graph) -> list[str]:
    """Names of the layers whose sums overflow 16 bits for some input: see `HALF_RANGE`.

    A depthwise convolution is none of them: it adds no channels in pairs, and NNCF leaves its
    weights the full range for that reason.
    """
    return [
        op.name
        for op in integer_layers(graph)
        if any(_overflows(op, name) for name in stored_shapes(op))
    ]


def _overflows(op: Op, name: str) -> bool:
    weight: Any = getattr(op.layer, name)
    alone = getattr(op.layer, "groups", 1) > 1 and weight.shape[1] == 1
    return weight.numel() > 0 and not alone and int(weight.int().abs().max()) > HALF_RANGE
