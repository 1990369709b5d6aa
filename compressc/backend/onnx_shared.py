"""A weight that several layers hold is stored once, however each of them reads it.

A table and the last layer of a language model may hold one weight. The one is read row by row, the
other takes it transposed or in blocks. ONNX Runtime computes a `Transpose` or `Reshape` of a stored
tensor when it loads the file, so that the second layout need not be in there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from hashlib import blake2b
from typing import Any

from compressc.backend.onnx_cleaning import attribute, drop_unused, set_int

#: Smaller tensors are left: nothing would be saved.
_SMALL = 1024
#: Types of integers in ONNX that weights are stored as.
_INTEGERS = ("INT8", "UINT8", "INT4", "UINT4")
_MATRIX = 2
#: Those whose numbers are bytes, which can be told apart when they are turned.
_BYTES = ("INT8", "UINT8")


def store_once(graph: Any) -> None:
    """Compute stored integers from others that are the same numbers; the float ones are once."""
    for tensors in _alike(graph, _INTEGERS):
        known: dict[bytes, Any] = {}
        for tensor in tensors:
            found = _computed(graph, tensor, known)
            if found is None:
                known[_digest(tensor.raw_data)] = tensor
                continue
            graph.node.insert(0, found)
            graph.initializer.remove(tensor)


def turn_dequantized(graph: Any) -> None:
    """Let `DequantizeLinear` of a matrix that is stored both ways be turned, for OpenVINO.

    It stores floats in place of integers that are turned (2026.4), and takes the `Transpose` of
    floats into its product. ONNX Runtime would not find its int8 product behind one.
    """
    from onnx import helper

    twice: dict[str, str] = {}
    for tensors in _alike(graph, _BYTES):
        known: dict[bytes, Any] = {}
        for tensor in tensors:
            same = _turned(tensor, known)
            if same is None:
                known[_digest(tensor.raw_data)] = tensor
            else:
                twice[tensor.name] = same.name
    nodes = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type == "DequantizeLinear" and node.input[0] in twice:
            axis, (out,) = attribute(node, "axis"), node.output
            set_int(node, "axis", 1 - (1 if axis is None else axis % 2))
            node.input[0], node.output[0] = twice[node.input[0]], f"{out}:floats"
            nodes.append(helper.make_node("Transpose", [f"{out}:floats"], [out], perm=[1, 0]))
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused(graph)


def _alike(graph: Any, types: Collection[str]) -> Iterator[list[Any]]:
    """Stored tensors of one of these types and of one size, where there are several."""
    from onnx import TensorProto

    wanted, found = {getattr(TensorProto, name) for name in types}, defaultdict(list)
    for tensor in graph.initializer:
        if tensor.data_type in wanted and len(tensor.raw_data) > _SMALL:
            found[tensor.data_type, len(tensor.raw_data)].append(tensor)
    yield from (tensors for tensors in found.values() if len(tensors) > 1)


def _computed(graph: Any, tensor: Any, known: Mapping[bytes, Any]) -> Any:
    """The node that makes a tensor of one that is stored, if any does."""
    from onnx import TensorProto, helper

    same = known.get(_digest(tensor.raw_data))
    if same is not None:
        shape = helper.make_tensor(
            f"{tensor.name}:shape", TensorProto.INT64, [len(tensor.dims)], tensor.dims
        )
        graph.initializer.append(shape)
        return helper.make_node("Reshape", [same.name, shape.name], [tensor.name])
    same = _turned(tensor, known)
    if same is None:
        return None
    return helper.make_node("Transpose", [same.name], [tensor.name], perm=[1, 0])


def _turned(tensor: Any, known: Mapping[bytes, Any]) -> Any:
    """The stored matrix that is this one, turned; None where there is none."""
    from onnx import numpy_helper

    turned = list(reversed(tensor.dims))
    if not _is_bytes(tensor) or len(turned) != _MATRIX:
        return None
    if all(list(other.dims) != turned for other in known.values()):
        return None
    same = known.get(_digest(numpy_helper.to_array(tensor).T.tobytes()))
    return same if same is not None and list(same.dims) == turned else None


def _is_bytes(tensor: Any) -> bool:
    from onnx import TensorProto

    return tensor.data_type in {getattr(TensorProto, name) for name in _BYTES}


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=32).digest()
