"""`quant(mode=dynamic)`: linear layers multiply integers, in ranges that are found at run time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import torch

from compressc.analysis.coverage import Verdict, parameters_of
from compressc.ir import QUANTIZED_RECURRENT, Graph, Op
from compressc.ir.number_forms import INT8_PER_CHANNEL, NumberForm
from compressc_quant.rounding import to_nearest
from compressc_quant.verdicts import why_float
from compressc_quant.weights import Rounder, matrices_of

#: What ONNX's DynamicQuantizeLinear makes of a value.
INPUT = NumberForm(torch.uint8, zero_point=True, dynamic=True)
#: Recurrent layers that a runtime multiplies in integers: ONNX Runtime, DynamicQuantizeLSTM.
ROUNDS = ("lstm",)
#: Whether a recurrent layer rounds what it is given -> what becomes of it.
_RECURRENT = {
    True: "int8 weights; ONNX Runtime multiplies integers, states rounded at each step; OpenVINO "
    "and torch multiply floats",
    False: "int8 weights; multiplied as floats: no runtime has integer kernels for it",
}
#: The largest weight whose products with u8 add up in pairs in 16 bits.
_HALF_RANGE = 64


def quantize_dynamically(graph: Graph, *, half_range: bool) -> None:
    """Round the weights of linear layers and tables in place, and what linear layers are given.

    Args:
        graph: float, of trained weights.
        half_range: whether weights of linear layers keep within -64..64.
    """
    chosen = [op.name for op in graph if _form_of(op) is not None]
    rounder = Rounder(graph, dict.fromkeys(chosen, INT8_PER_CHANNEL))
    largest = _HALF_RANGE if half_range else None
    for name in chosen:
        op = graph[name]
        if op.role == "recurrent":
            given = INPUT if op.kind in ROUNDS else None
            rounder.set_matrices(op, partial(to_nearest, most=largest if given else None), given)
        elif op.role == "embedding":
            rounder.set(op, to_nearest)
        else:
            rounder.set(op, partial(to_nearest, most=largest), INPUT)


def dynamic_verdicts(graph: Graph) -> Mapping[str, Verdict]:
    """What becomes of each op."""
    found = {}
    for op in graph:
        text = _form_of(op)
        if text is not None:
            found[op.name] = Verdict.does(text, *matrices_of(op))
        elif parameters_of(op):
            found[op.name] = Verdict.cannot(why_left(op, graph))
        else:
            found[op.name] = Verdict.idle("no weights")
    return found


def recurrent_notes(graph: Graph) -> Iterator[tuple[str, str]]:
    """(op, what files do with its weights) of recurrent layers that have been quantized."""
    for op in graph:
        if op.role == "recurrent" and op.weight_form is not None:
            yield op.name, _RECURRENT[op.input_form is not None]


def why_left(op: Op, graph: Graph) -> str:
    """Why an op with parameters stays as it is."""
    if op.role in ("convolution", "transposed_convolution"):
        return "ranges at run time are for linear layers; quant(mode=static) takes convolutions"
    return why_float(op, transformer=False, graph=graph)


def _form_of(op: Op) -> str | None:
    if op.role == "embedding" and op.kind == "embedding":
        return "int8 weight"
    if op.kind in QUANTIZED_RECURRENT:
        return _RECURRENT[op.kind in ROUNDS]
    return "int8 weight, input rounded at run time" if op.kind == "linear" else None
