"""What nncf's decisions mean for each op: int8, or float and why."""

from __future__ import annotations

from collections.abc import Mapping

from compressc.analysis.coverage import Verdict, parameters_of
from compressc.analysis.integers import is_integer
from compressc.analysis.matrices import is_recurrent_weight
from compressc.ir import NORMS, Graph, Op
from compressc.ir.quantized import DEQUANTIZE, QUANTIZE, QUANTIZED

#: Operations whose presence makes a model a transformer for the rules below.
ATTENTION = ("aten.scaled_dot_product_attention", "aten.softmax.int", "aten._softmax")

_BATCH_NORM = "it is not folded into the layer before it (simplify says why)"
_NO_KERNEL = "it has no int8 kernel in ONNX Runtime or OpenVINO"
RECURRENT = "no fixed range holds its states; mode=dynamic and mode=weights have an int8 form of it"
_ATTENTION = "softmax and the product with the values stay in float"


def verdicts(
    before: Graph, after: Graph, transformer: bool, told: Mapping[str, str]
) -> dict[str, Verdict]:
    """A verdict for each op of `before`.

    Args:
        before: the float graph.
        after: the same graph with nncf's decisions carried over.
        transformer: whether nncf's rules for transformers were used.
        told: op name -> what was said of it on the way.
    """
    return {op.name: _verdict(op, after, transformer, told.get(op.name, "")) for op in before}


def _verdict(op: Op, after: Graph, transformer: bool, told: str) -> Verdict:
    now = after[op.name]
    int8_inputs = any(is_integer(after, name) for name in now.inputs)
    rounded = any(user.kind == QUANTIZE for user in after.users(op.name))
    if now.weight_form is not None and op.weight_form is None:
        inputs = "int8 inputs" if int8_inputs else "f32 inputs"
        weight = f"{'int8' if now.int8 else now.weight_form} weight"
        return Verdict.does(weight if op.role == "embedding" else f"{weight}, {inputs}", "weight")
    reason = told or why_float(op, transformer, after)
    moved = any(after[name].kind == DEQUANTIZE for name in set(now.inputs) - set(op.inputs))
    if moved or rounded:
        action = "int8 inputs" if moved else "result rounded to int8"
        return Verdict.does(f"{action}; parameters stay: {reason}" if parameters_of(op) else action)
    if parameters_of(op) or stated(op) or told:
        return Verdict.cannot(reason)
    return Verdict.idle("no weights, and no int8 layer next to it")


def why_float(op: Op, transformer: bool, graph: Graph | None = None) -> str:
    """Why an op that nncf left in float is; `graph` tells what reads a tensor."""
    rules = "transformers" if transformer else "convolutional networks"
    if op.kind in QUANTIZED:
        return f"nncf's rules for {rules} leave it in float"
    if op.role == "recurrent":
        return RECURRENT
    if op.kind == "parameter":
        if graph is not None and is_recurrent_weight(graph, op):
            return "weights of a recurrent layer have an int8 form in dynamic quantization alone"
        return "a tensor that no linear layer, convolution or embedding holds has no int8 form"
    return stated(op) or f"{op.kind} has no int8 form"


def stated(op: Op) -> str:
    """Why an op without an int8 form is named in the report; nothing for what is not worth it."""
    if op.kind in ATTENTION:
        return _ATTENTION
    if op.role == "batch_norm":
        return _BATCH_NORM
    return _NO_KERNEL if op.role in NORMS or op.kind == "gelu" else ""
