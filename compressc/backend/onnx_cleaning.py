"""Rewriting an exported ONNX model so that runtimes find their int8 kernels and nothing else.

What the exporter leaves behind is correct but slow and large: the transpose of a linear layer's
weight hides the dequantized weight from ONNX Runtime's int8 matrix product, and every node carries
the Python stack it came from.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from compressc.ir.types import TensorType, size_text

#: What the name of a stored weight ends with where it is stored turned.
TURNED = ":T"


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
        if attribute(source, "block_size"):  # blocks lie along the other dimension then
            continue
        weight = stored.get(source.input[0])
        if weight is None or list(attribute(node, "perm")) != [1, 0]:
            continue
        name = f"{weight.name}{TURNED}"
        if name not in stored:
            value = np.ascontiguousarray(numpy_helper.to_array(weight).T)
            graph.initializer.append(numpy_helper.from_array(value, name))
            stored[name] = graph.initializer[-1]
        axis = attribute(source, "axis")
        inputs = [name, *source.input[1:]]
        node.op_type = "DequantizeLinear"
        del node.attribute[:], node.input[:]
        node.input.extend(inputs)
        if axis is not None:
            set_int(node, "axis", 1 - axis % 2)


def split_quantized_gemms(graph: Any) -> None:
    """`Gemm(x, DequantizeLinear(w), b)` becomes `MatMul(x, w^T) - (-b)`, for ONNX Runtime.

    Its int8 Gemm wants an int32 bias and a quantized result; its int8 MatMul takes every case. The
    bias is subtracted because it would fuse a MatMul and an Add to the float Gemm again (1.32:
    0.88 ms instead of 0.18 ms for 64-256-256-10 at batch 256).
    """
    from onnx import helper, numpy_helper

    made_by = {name: node for node in graph.node for name in node.output}
    stored = {tensor.name: tensor for tensor in graph.initializer}
    result = []
    for node in graph.node:
        source = made_by.get(node.input[1]) if node.op_type == "Gemm" else None
        is_quantized = source is not None and source.op_type == "DequantizeLinear"
        if not is_quantized or not _is_linear(node) or not set(node.input[2:]) <= set(stored):
            result.append(node)
            continue
        (out,), (x, weight, *bias) = node.output, node.input
        turned, product = f"{out}:weight", f"{out}:product" if bias else out
        result.append(helper.make_node("Transpose", [weight], [turned], perm=[1, 0]))
        result.append(helper.make_node("MatMul", [x, turned], [product]))
        if bias:
            value = -numpy_helper.to_array(stored[bias[0]])
            graph.initializer.append(numpy_helper.from_array(value, f"{out}:bias"))
            result.append(helper.make_node("Sub", [product, f"{out}:bias"], [out]))
    del graph.node[:]
    graph.node.extend(result)
    transpose_stored_weights(graph)
    drop_unused(graph)


def dequantize_at_load(graph: Any, only: Collection[str] | None = None) -> None:
    """`DequantizeLinear` of a stored weight becomes `Cast`, `Sub` and `Mul`, for ONNX Runtime.

    It computes these once, when it loads the file. With `DequantizeLinear` it would round the input
    of the product to int8 (1.32: a weight with a scale per output becomes a `MatMulNBits` with
    `accuracy_level=4`, off by 0.02), or turn the weight into floats anew at each run. In blocks it
    does the latter, and they are left.

    Args:
        graph: changed in place.
        only: names of the weights that this is done to, turned or not; all of them where none are
            given.
    """
    from onnx import TensorProto, helper, numpy_helper

    stored = {tensor.name: tensor for tensor in graph.initializer}
    result = []
    for node in graph.node:
        weight = stored.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        left = only is not None and node.input[0].removesuffix(TURNED) not in only
        if weight is None or left or attribute(node, "block_size"):
            result.append(node)
            continue
        (out,), axis = node.output, attribute(node, "axis")
        shape = [-1 if dim == axis else 1 for dim in range(len(weight.dims))]
        value = f"{out}:floats"
        to = helper.make_node("Cast", [weight.name], [value], to=TensorProto.FLOAT)
        result.append(to)
        for place, kind in ((2, "Sub"), (1, "Mul")):
            if len(node.input) > place and node.input[place]:
                array = numpy_helper.to_array(stored[node.input[place]]).astype(np.float32)
                name = f"{node.input[place]}:{len(shape)}:{axis}"
                if name not in stored:
                    graph.initializer.append(numpy_helper.from_array(array.reshape(shape), name))
                    stored[name] = graph.initializer[-1]
                made = out if kind == "Mul" else f"{out}:shifted"
                result.append(helper.make_node(kind, [value, name], [made]))
                value = made
    del graph.node[:]
    graph.node.extend(result)
    drop_unused(graph)


def _is_linear(gemm: Any) -> bool:
    wanted = {"transA": (0, None), "transB": (1,), "alpha": (1.0, None), "beta": (1.0, None)}
    return all(attribute(gemm, name) in values for name, values in wanted.items())


def drop_unused(graph: Any) -> None:
    """Drop nodes and stored tensors that nothing reads."""
    outputs = {value.name for value in graph.output}
    while True:
        read = Counter(names_read(graph.node))
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


def name_dimensions(values: Any, types: Sequence[TensorType]) -> None:
    """Call the open dimensions of inputs or outputs what the graph calls them (`b`), not `s77`."""
    for value, type_ in zip(values, types, strict=True):
        dimensions = value.type.tensor_type.shape.dim
        for dimension, size in zip(dimensions, type_.shape, strict=True):
            if dimension.dim_param and not isinstance(size, int):
                dimension.dim_param = size_text(size)


def name_values(graph: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give the inputs and outputs these names, and inner values that had one of them another.

    The exporter calls inner values after their operator (`sigmoid`, `sigmoid_1`), which may be what
    an output is called; a name that is written twice makes the file invalid.
    """
    old = [value.name for value in (*graph.input, *graph.output)]
    renamed = dict(zip(old, (*inputs, *outputs), strict=True))
    wanted, known = set(renamed.values()), set(_value_names(graph))
    for name in sorted((known & wanted) - set(old)):
        renamed[name] = fresh_name(name, known | wanted)
        known.add(renamed[name])
    _rename(graph, renamed)


def fresh_name(stem: str, taken: Collection[str]) -> str:
    """`stem`, or `stem_1`, `stem_2`, ...: the first that is not taken."""
    numbered = (f"{stem}_{number}" for number in itertools.count(1))
    return next(name for name in itertools.chain([stem], numbered) if name not in taken)


def _value_names(graph: Any) -> Iterator[str]:
    """Names of all values; an inner graph reads those of the graph it stands in."""
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        yield value.name
    for node in graph.node:
        yield from node.input
        yield from node.output
        for inner in _inner_graphs(node):
            yield from _value_names(inner)


def _rename(graph: Any, renamed: Mapping[str, str]) -> None:
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        value.name = renamed.get(value.name, value.name)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
        for inner in _inner_graphs(node):
            _rename(inner, renamed)


def names_read(nodes: Iterable[Any]) -> Iterator[str]:
    """Names of the values that nodes read, those of their inner graphs among them."""
    for node in nodes:
        yield from node.input
        for inner in _inner_graphs(node):
            yield from names_read(inner.node)
            yield from (value.name for value in inner.output)


def nodes_of(graph: Any) -> Iterator[Any]:
    """Every node of a graph, and of the inner graphs of each."""
    for node in graph.node:
        yield node
        for inner in _inner_graphs(node):
            yield from nodes_of(inner)


def _inner_graphs(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def attribute(node: Any, name: str) -> Any:
    """The value of a node's attribute; None where it has none of that name."""
    from onnx import helper

    found = [a for a in node.attribute if a.name == name]
    return helper.get_attribute_value(found[0]) if found else None


def set_int(node: Any, name: str, value: int) -> None:
    """Give a node an attribute, in place of one of that name."""
    from onnx import helper

    others = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*others, helper.make_attribute(name, value)])
