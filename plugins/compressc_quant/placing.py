"""More quantizers, where a runtime needs them to compute a layer in integers.

nncf puts a quantizer in front of the next layer, behind a batch norm that is not folded or an
activation such as SiLU. ONNX Runtime runs a convolution in integers only where the quantizer stands
right behind it (or behind its ReLU): else it dequantizes the weights again at every call, which is
slower than the float model (64 channels of 24 x 24, one AVX2 thread: 21.0 ms; float 16.0 ms; with
the quantizer 9.7 ms). And it sees no integers behind a concatenation, unless a quantizer follows.
"""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx
import torch

from compressc.analysis.integers import is_integer, moves_integers
from compressc.ir import Graph, Op, Ref, TensorType
from compressc.ir.ops import Arg, map_arg
from compressc.ir.quantized import DEQUANTIZE, QUANTIZE
from compressc_quant.calibrating import Observed, observe_ranges

#: Activations that ONNX Runtime computes inside its integer convolution.
_FUSED = ("relu", "relu6")


def round_results(
    graph: Graph, batches: Sequence[tuple[torch.Tensor, ...]], symmetric: bool
) -> list[str]:
    """Quantize the results of integer convolutions that float ops read.

    Left alone are results that no later layer with an int8 weight depends on: the model's outputs
    would have 256 values.

    Args:
        graph: edited in place.
        batches: inputs to observe ranges on.
        symmetric: without a zero point.

    Returns:
        Names of the values that are quantized now.
    """
    names = [name for op in graph if (name := _float_result(graph, op)) is not None]
    quantizers = {name: _quantizer_of(graph, name) for name in names}
    missing = [name for name in names if quantizers[name] is None]
    ranges = observe_ranges(graph, missing, batches) if missing else None
    done = []
    for name in names:
        rounded = quantizers[name]
        if rounded is None and ranges is not None:
            rounded = _quantize(graph, name, ranges.of(name), symmetric)
        if rounded is not None:
            _read_behind(graph, name, rounded)
            done.append(name)
    return done


def round_once(graph: Graph) -> list[str]:
    """Values that are rounded, moved and rounded again in another range: at once in the last one.

    NNCF gives both sides of a concatenation one range, and what is enlarged in front of it another
    before. Two roundings lose more than one, and a runtime would go from integers to others.

    Args:
        graph: edited in place.

    Returns:
        Names of the values that have the range of what is made of them now.
    """
    done = []
    for op in list(graph):
        first = _rounded_before(graph, op) if op.kind == QUANTIZE else None
        if first is None or first.args[1:] == op.args[1:]:
            continue
        for name in (first.name, *(user.name for user in graph.users(first.name))):
            graph.set_inputs(name, (graph[name].args[0], *op.args[1:]))
        done.append(first.inputs[0])
    return done


def _rounded_before(graph: Graph, last: Op) -> Op | None:
    """What rounds a value first that is moved, read by nothing else, and rounded again."""
    name = last.inputs[0]
    while len(graph.users(name)) == 1 and name not in graph.output_names:
        op = graph[name]
        if op.kind == DEQUANTIZE:
            rounds = graph[op.inputs[0]]
            return rounds if len(graph.users(rounds.name)) == 1 else None
        if not moves_integers(op):
            return None
        name = op.inputs[0]
    return None


def round_joins(graph: Graph) -> list[str]:
    """Quantize concatenations of integers that an int8 layer reads once more, in the same form.

    The values stay the same.

    Args:
        graph: edited in place.

    Returns:
        Names of the concatenations that are quantized now.
    """
    done = []
    for op in list(graph):
        forms = {_form(graph[name]) for name in op.inputs} if op.kind == "aten.cat" else set()
        form = forms.pop() if len(forms) == 1 else None
        if form is not None and _is_read_in_int8(graph, op.name):
            _read_behind(graph, op.name, _insert_pair(graph, op.name, form))
            done.append(op.name)
    return done


def _is_read_in_int8(graph: Graph, name: str) -> bool:
    """Whether an int8 layer reads a value, as it is or moved about."""
    return any(
        user.int8 or (moves_integers(user) and _is_read_in_int8(graph, user.name))
        for user in graph.users(name)
    )


def _form(op: Op) -> tuple[Arg, ...] | None:
    """Scale, zero point, least, most and dtype of a dequantize; None of any other op."""
    return op.args[1:] if op.kind == DEQUANTIZE else None


def _float_result(graph: Graph, op: Op) -> str | None:
    """The value behind an integer convolution that some float op reads, if it may be rounded."""
    integers = op.int8 and op.role == "convolution"
    if not integers or not is_integer(graph, op.inputs[0]):
        return None
    users, last = graph.users(op.name), op.name
    if len(users) == 1 and users[0].kind in _FUSED and last not in graph.output_names:
        last = users[0].name
        users = graph.users(last)
    is_rounded = all(user.kind == QUANTIZE for user in users)
    if last in graph.output_names or is_rounded or not _feeds_a_layer(graph, last):
        return None
    return last


def _feeds_a_layer(graph: Graph, name: str) -> bool:
    return any(graph[later].int8 for later in nx.descendants(graph.dag, name))


def _quantizer_of(graph: Graph, name: str) -> str | None:
    """The dequantize of a value that nncf quantizes for some of its readers."""
    for user in graph.users(name):
        if user.kind == QUANTIZE:
            return next((u.name for u in graph.users(user.name) if u.kind == DEQUANTIZE), None)
    return None


def _quantize(graph: Graph, name: str, observed: Observed, symmetric: bool) -> str | None:
    """Insert the pair; None where there is no finite range."""
    signed = symmetric and observed.low < 0
    least, most = (-128, 127) if signed else (0, 255)
    found = observed.form(least, most, symmetric=symmetric)
    if found is None:
        return None
    return _insert_pair(graph, name, (*found, least, most, torch.int8 if signed else torch.uint8))


def _insert_pair(graph: Graph, name: str, form: tuple[Arg, ...]) -> str:
    """Insert quantize and dequantize behind a value; the name of the second."""
    shape, dtype = graph.type_of(name).shape, form[-1]
    assert isinstance(dtype, torch.dtype)
    rounded = Op(
        graph.fresh_name(f"{name}.q"),
        QUANTIZE,
        (Ref(name), *form),
        type=TensorType(dtype, shape),
    )
    graph.insert_after(name, rounded)
    back = Op(
        graph.fresh_name(f"{name}.dq"),
        DEQUANTIZE,
        (Ref(rounded.name), *form),
        type=TensorType(torch.float32, shape),
    )
    return graph.insert_after(rounded.name, back).name


def _read_behind(graph: Graph, name: str, rounded: str) -> None:
    for user in graph.users(name):
        if user.kind != QUANTIZE:
            args = map_arg(
                user.args, lambda a: Ref(rounded) if isinstance(a, Ref) and a.name == name else a
            )
            graph.set_inputs(user.name, args)
