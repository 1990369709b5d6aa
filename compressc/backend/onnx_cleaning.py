"""Rewriting an exported ONNX model so that runtimes find their int8 kernels, and nothing else in it.

What the exporter leaves behind is correct but slow and large: the transpose of a linear layer's
weight hides the dequantized weight from ONNX Runtime's int8 matrix product, and every node carries
the Python stack it came from.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np


def clean(model: Any) -> None:
    """Clean an `onnx.ModelProto` in place; it computes the same numbers."""
    transpose_stored_weights(model.graph)
    drop_unused(model.graph)
    strip_remarks(model)


def transpose_stored_weights(graph: Any) -> None:
    """`Transpose(DequantizeLinear(w, s, axis=0))` becomes `DequantizeLinear(w^T, s, axis=1)`.

    Also where several layers share the stored weight: each then reads the same transposed one.
    """
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in graph.initializer}
    made_by = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        source = made_by.get(node.input[0]) if node.op_type == "Transpose" else None
        if source is None or source.op_type != "DequantizeLinear":
            continue
        weight = stored.get(source.input[0])
        if weight is None or list(_attribute(node, "perm")) != [1, 0]:
            continue
        name = f"{weight.name}.T"
        if name not in stored:
            value = np.ascontiguousarray(numpy_helper.to_array(weight).T)
            graph.initializer.append(numpy_helper.from_array(value, name))
            stored[name] = graph.initializer[-1]
        axis = _attribute(source, "axis")
        inputs = [name, *source.input[1:]]
        node.op_type = "DequantizeLinear"
        del node.attribute[:], node.input[:]
        node.input.extend(inputs)
        if axis is not None:
            _set_int(node, "axis", 1 - axis % 2)


def drop_unused(graph: Any) -> None:
    """Drop nodes and stored tensors that nothing reads."""
    outputs = {value.name for value in graph.output}
    while True:
        read = Counter(name for node in graph.node for name in node.input)
        dead = [n for n in graph.node if not any(read[o] or o in outputs for o in n.output)]
        for node in dead:
            graph.node.remove(node)
        if not dead:
            break
    for tensor in [t for t in graph.initializer if not read[t.name] and t.name not in outputs]:
        graph.initializer.remove(tensor)


def strip_remarks(model: Any) -> None:
    """Drop stack traces, the types of inner values and other remarks no runtime reads.

    They would be half of a small int8 file, and would name source files of the user's machine.
    """
    graph = model.graph
    for item in [model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer]:
        item.doc_string = ""
        del item.metadata_props[:]
    del graph.value_info[:]


def _attribute(node: Any, name: str) -> Any:
    from onnx import helper

    found = [a for a in node.attribute if a.name == name]
    return helper.get_attribute_value(found[0]) if found else None


def _set_int(node: Any, name: str, value: int) -> None:
    from onnx import helper

    node.attribute.append(helper.make_attribute(name, value))
