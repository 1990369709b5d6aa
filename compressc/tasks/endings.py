"""What a model does to an output last (softmax, sigmoid, a norm, argmax), and the value before."""

from __future__ import annotations

from dataclasses import dataclass

from compressc.ir import Graph, Op, Ref, TensorType

#: Change neither the order of scores nor their place; on the way to an ending they are passed over,
#: and so are moves that leave the dimensions in place.
_MONOTONE = {
    "aten.clamp",
    "aten.clamp_min",
    "aten.clamp_max",
    "aten.exp",
    "aten.log",
    "aten.round",
}
_ENDINGS = {
    "aten.softmax": "softmax",
    "aten._softmax": "softmax",
    "aten.log_softmax": "log_softmax",
    "aten._log_softmax": "log_softmax",
    "aten.argmax": "argmax",
    "aten.sigmoid": "sigmoid",
    "sigmoid": "sigmoid",
    "aten.log_sigmoid": "log_sigmoid",
    "aten.gt": "threshold",
    "aten.ge": "threshold",
}
#: How a norm is written out, from the vector to what divides it.
_NORMS = {"aten.linalg_vector_norm", "aten.norm"}
_SUMS = {"aten.sum"}
_ROOTS = {"aten.sqrt", "aten.rsqrt"}
_ON_THE_WAY = {
    "aten.add",
    "aten.clamp",
    "aten.clamp_min",
    "aten.maximum",
    "aten.mul",
    "aten.pow",
    "aten.reciprocal",
    "aten.square",
}


@dataclass(frozen=True)
class Ending:
    """The end of an output.

    Attributes:
        name: softmax, log_softmax, sigmoid, log_sigmoid, threshold, normalize or argmax; "" for
            none. Of several in a row (argmax of a softmax), the last one that runs.
        value: name of the value before all of them; the output itself where there is none.
        dim: the dimension of that value which the ending works along, counted from 0.
    """

    name: str
    value: str
    dim: int | None = None


def find_ending(graph: Graph, output: str) -> Ending:
    """How the output of that name ends."""
    found = Ending("", output)
    value: str | None = output
    rescaled = False
    while value is not None:
        op = graph[value]
        step = _ending(graph, op)
        rescaled = rescaled or op.packet in ("aten.exp", "aten.log")
        if step is None:
            passes = op.packet in _MONOTONE or op.move in ("same", "cast", "ones")
            value = op.inputs[0] if passes else None
        elif rescaled and "softmax" not in step.name:
            break  # one half is no threshold any more
        elif found.dim is not None and step.dim not in (None, found.dim):
            break  # a softmax along another dimension is part of the model
        else:
            dim = found.dim if step.dim is None else step.dim
            found = Ending(found.name or step.name, step.value, dim)
            value = step.value if step.name != "normalize" else None
    return found


def _ending(graph: Graph, op: Op) -> Ending | None:
    """The ending that an op is, with its operand."""
    kind = op.packet
    if kind == "getitem" and op.args[1] == 1 and graph[op.inputs[0]].packet == "aten.max":
        op, kind = graph[op.inputs[0]], "aten.argmax"
    name = _ENDINGS.get(kind)
    if name in ("softmax", "log_softmax", "argmax"):
        dim = op.args[1] if len(op.args) > 1 else None
        return None if not isinstance(dim, int) else _along(graph, name, op.inputs[0], dim)
    if name:
        return Ending(name, op.inputs[0])
    return _normalized(graph, op) if kind in ("aten.div", "aten.mul") else None


def _along(graph: Graph, name: str, value: str, dim: int) -> Ending:
    return Ending(name, value, dim % len(graph.type_of(value).shape))


def _normalized(graph: Graph, op: Op) -> Ending | None:
    """`x / |x|` in any of its written-out forms."""
    if len(op.args) < 2 or not all(isinstance(arg, Ref) for arg in op.args[:2]):
        return None
    value, divisor = op.args[0].name, graph[op.args[1].name]
    dims: list[int] = []
    rooted = False
    while divisor.name != value:
        kind = divisor.packet
        if kind in _NORMS | _SUMS:
            listed = next((arg for arg in divisor.args[1:] if isinstance(arg, tuple)), ())
            dims += [dim for dim in listed if isinstance(dim, int)]
            rooted = rooted or kind in _NORMS
        elif kind in _ROOTS or (kind == "aten.pow" and divisor.args[1] in (0.5, -0.5)):
            rooted = True
        elif kind not in _ON_THE_WAY and divisor.move not in ("same", "cast", "ones", "copies"):
            return None
        if not divisor.inputs:
            return None
        divisor = graph[divisor.inputs[0]]
    is_norm = rooted and len(dims) == 1 and isinstance(graph[value].type, TensorType)
    return _along(graph, "normalize", value, dims[0]) if is_norm else None
