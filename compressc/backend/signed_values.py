"""Whether rounded values have a sign: what each runtime asks for; they stand for the same numbers.

Runtimes of phones take s8 values, and a zero point beside every scale. ONNX Runtime has an integer
convolution for values of one type in front and behind alone, and on x86 its kernels of u8 values
are the fast ones.
"""

from __future__ import annotations

import importlib
import operator
from typing import Any

import torch

from compressc.ir import Graph, retype
from compressc.ir.quantized import DEQUANTIZE, QUANTIZE

#: What turns a u8 value into the s8 value that stands for the same number.
_SIGN = 128


def signed_values(module: torch.fx.GraphModule) -> None:
    """Write u8 values as s8 of the same meaning, in place; the module computes the same."""
    importlib.import_module("torch.ao.quantization.fx._decomposed")
    ops = torch.ops.quantized_decomposed
    whole = (ops.quantize_per_tensor.default, ops.dequantize_per_tensor.default)
    for node in list(module.graph.nodes):
        if node.target in whole and node.args[5] is torch.uint8:
            x, scale, zero, *_ = node.args
            node.args = (x, scale, zero - _SIGN, -_SIGN, _SIGN - 1, torch.int8, *node.args[6:])
        elif node.target is ops.dequantize_per_channel.default and node.args[2] is None:
            stored, scale, _, *rest = node.args
            tensor = operator.attrgetter(scale.target)(module)
            name = f"{scale.name}_zero_point"
            module.register_buffer(name, torch.zeros(tensor.shape, dtype=torch.int64))
            with module.graph.inserting_before(node):
                zeros = module.graph.get_attr(name)
            node.args = (stored, scale, zeros, *rest)
    module.recompile()


def unsigned_values(graph: Graph) -> Graph:
    """A copy with s8 values as u8 of the same meaning; the graph itself where it has none."""
    signed = [
        op.name for op in graph if op.kind in (QUANTIZE, DEQUANTIZE) and op.args[5] is torch.int8
    ]
    if not signed:
        return graph
    made = graph.copy()
    for name in signed:
        x, scale, *integers = made[name].args
        zero, least, most = (int(number) + _SIGN for number in integers[:3])
        made.set_inputs(name, (x, scale, zero, least, most, torch.uint8))
    retype(made)
    return made


def dequantized_weights(module: torch.fx.GraphModule) -> list[torch.fx.Node]:
    """Where stored integers with a scale for each channel become floats."""
    dequantize = torch.ops.quantized_decomposed.dequantize_per_channel.default
    return [node for node in module.graph.nodes if node.target is dequantize]


def stored_floats(module: torch.fx.GraphModule, node: torch.fx.Node) -> torch.fx.Node:
    """What one of them comes to, as a buffer of its own in front of it."""
    parts: Any = node.args[:3]
    tensors = (operator.attrgetter(part.target)(module) for part in parts)
    name, form = f"{node.name}_floats", node.args[3:]
    floats = torch.ops.quantized_decomposed.dequantize_per_channel(*tensors, *form)
    module.register_buffer(name, floats)
    with module.graph.inserting_before(node):
        return module.graph.get_attr(name)


def drop_unused(module: torch.fx.GraphModule) -> None:
    """Take out nodes that nothing reads, and tensors that no node does."""
    module.graph.eliminate_dead_code()
    read = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    for name, _ in [*module.named_parameters(), *module.named_buffers()]:
        if name not in read:
            place, _, last = name.rpartition(".")
            delattr(module.get_submodule(place), last)
    module.recompile()


def enough(example: tuple[torch.Tensor, ...], count: int) -> tuple[torch.Tensor, ...]:
    """So many samples, repeated where there are fewer."""
    return tuple(
        x.repeat(-(-count // len(x)), *[1] * (x.dim() - 1))[:count].contiguous() for x in example
    )
