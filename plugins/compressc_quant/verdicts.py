"""What nncf's decisions mean for each op: int8, or float and why."""

from __future__ import annotations

from collections.abc import Mapping

from compressc.analysis.coverage import Verdict, is_recurrent_weight, parameters_of
from compressc.backend.integers import is_integer
from compressc.ir import Graph, Op
from compressc.ir.quantized import QUANTIZED

#: Operations whose presence makes a model a transformer for the rules below.
ATTENTION = ("aten.scaled_dot_product_attention", "aten.softmax.int", "aten._softmax")

_BATCH_NORM = "it is not folded into the layer before it (simplify says why)"
_NO_KERNEL = "it has no int8 kernel in ONNX Runtime or OpenVINO"
#: Kinds without an int8 form -> why; the report names their ops.
STATED = {
    **{f"batch_norm{n}d": _BATCH_NORM for n in (1, 2, 3)},
    **dict.fromkeys(("layer_norm", "rms_norm", "group_norm", "gelu"), _NO_KERNEL),
    **dict.fromkeys(ATTENTION, "softmax and the product with the values stay in float"),
}
_QUANTIZE = "quantized_decomposed.quantize_per_tensor"
_DEQUANTIZE = "quantized_decomposed.dequantize_per_tensor"


def judge(
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
    rounded = any(user.kind == _QUANTIZE for user in after.users(op.name))
    if now.kind == f"quantized_{op.kind}":
        inputs = "int8 inputs" if int8_inputs else "f32 inputs"
        return Verdict.does(
            "int8 weight" if op.kind == "embedding" else f"int8 weight, {inputs}", "weight"
        )
    reason = told or why_float(op, transformer, after)
    moved = any(after[name].kind == _DEQUANTIZE for name in set(now.inputs) - set(op.inputs))
    if moved or rounded:
        action = "int8 inputs" if moved else "result rounded to int8"
        return Verdict.does(f"{action}; parameters stay: {reason}" if parameters_of(op) else action)
    if parameters_of(op) or op.kind in STATED or told:
        return Verdict.cannot(reason)
    return Verdict.idle("no weights, and no int8 layer next to it")


def why_float(op: Op, transformer: bool, graph: Graph | None = None) -> str:
    """Why an op that nncf left in float is; `graph` tells what reads a tensor."""
    rules = "transformers" if transformer else "convolutional networks"
    if op.kind in QUANTIZED:
        return f"nncf's rules for {rules} leave it in float"
    if op.kind == "parameter":
        if graph is not None and is_recurrent_weight(graph, op):
            return "weights of a recurrent layer have an int8 form in dynamic quantization alone"
        return "a tensor that no linear layer, convolution or embedding holds has no int8 form"
    return STATED.get(op.kind, f"{op.kind} has no int8 form")
