"""Which layers a runtime really computes in integers, read from the graph that it executes."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from compressc.analysis.integers import integer_layers, is_integer, moves_integers
from compressc.backend.file_record import FloatLayer, Int8Layers
from compressc.ir import PRODUCTS, Graph, lower
from compressc.ir.lowering import module_names
from compressc.ir.quantized import QUANTIZE

_PADS = ("aten.constant_pad_nd", "aten.pad")
_PICKS = ("roll", "select", "index", "index_select", "gather", "take", "take_along_dim")
_UPSAMPLES = tuple(
    f"{how}{n}d" for how in ("upsample_nearest", "_upsample_nearest_exact") for n in (1, 2, 3)
)
#: ONNX Runtime 1.32 was seen to compute in floats behind `roll`, `select` and `index_select`, which
#: hand integers on; the others end there as the same nodes, or were not looked at.
_ENDING = frozenset(f"aten.{name}" for name in _PICKS + _UPSAMPLES)
#: Activations that integer kernels of phones' runtimes end with.
_FUSED = ("relu", "relu6")
#: What computes a layer in an exported ONNX model.
COMPUTING = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def int8_layers(
    graph: Graph, ran: Collection[str], runtime: str, *, rounds_results: bool = False
) -> Int8Layers:
    """The count, and why each other layer runs in float.

    Args:
        graph: what the file was written from.
        ran: names of the ops that the runtime computes in integers.
        runtime: what it is called.
        rounds_results: whether its integer kernels put out integers alone.
    """
    able = {op.name for op in integer_layers(graph)}
    # all that could be computed in integers
    layers = [op for op in graph if op.role in (*PRODUCTS, "recurrent")]
    left = []
    for op in layers:
        if op.name in ran:
            continue
        reason = f"{runtime} has no integer kernel for it here"
        if op.weight_form is None:
            reason = "its weight is float"
        elif op.name not in able:
            reason = "its input is float"
        elif rounds_results and op.input_form is None and not _is_rounded(graph, op.name):
            reason = f"its result is float, and integer kernels of {runtime} round theirs"
        left.append(FloatLayer(op=op.name, reason=reason))
    return Int8Layers(ran=len(layers) - len(left), of=len(layers), left=left)


def _is_rounded(graph: Graph, name: str) -> bool:
    """Whether what a layer puts out becomes integers, behind an activation at most."""
    users = graph.users(name)
    if len(users) == 1 and users[0].kind in _FUSED:
        users = graph.users(users[0].name)
    return bool(users) and all(user.kind == QUANTIZE for user in users)


def name_nodes(model: Any, graph: Graph) -> None:
    """Call the nodes of an exported `onnx.ModelProto` that compute a layer after its op.

    The exporter leaves the path of the module that a node was traced in.
    """
    names = module_names(lower(graph))
    for node in model.graph.node:
        scope = scope_of({item.key: item.value for item in node.metadata_props})
        if node.op_type in COMPUTING and scope in names:
            node.name = names[scope]


def scope_of(remarks: Mapping[str, str]) -> str:
    """The submodule that an exported node was traced in, by what the exporter left; or ""."""
    path = ast.literal_eval(remarks.get("pkg.torch.onnx.name_scopes", "[]"))
    return str(path[1]) if len(path) > 1 else ""


def weights_of_floats(graph: Graph) -> list[str]:
    """Stored weights that no integer layer reads, of layers that compute in floats.

    By their names in the lowered graph: `conv1.weight`. Not behind integers that are padded: with
    floats there, ONNX Runtime 1.32 computes something else (EfficientNet-Lite0: half of its outputs
    wrong; without its optimizations they are right).
    """
    able = {
        op.name
        for op in integer_layers(graph)
        if not any(_is_behind(graph, given, _ENDING) for given in op.inputs)
    }
    shared = {id(getattr(graph[name].layer, "weight", None)) for name in able}
    return [
        f"{target}.weight"
        for target, name in module_names(lower(graph)).items()
        if graph[name].int8 and graph[name].role in PRODUCTS and name not in able
        if not any(_pads_integers(graph, given) for given in graph[name].inputs)
        if id(getattr(graph[name].layer, "weight", None)) not in shared
    ]


def _is_behind(graph: Graph, name: str, packets: Collection[str]) -> bool:
    """Whether integers went through one of these calls on their way to a value."""
    op = graph[name]
    while moves_integers(op):
        if op.packet in packets:
            return True
        op = graph[op.inputs[0]]
    return False


def _pads_integers(graph: Graph, name: str) -> bool:
    op = graph[name]
    return op.kind.startswith(_PADS) and any(is_integer(graph, given) for given in op.inputs)


def readers_of_weights(graph: Graph, reads: Mapping[str, int]) -> set[str]:
    """The ops whose weights are read by integer nodes.

    Args:
        graph: what the file was written from.
        reads: stored tensor, as the lowered graph calls it (`conv1.weight`), or as it is called
            where it was written anew (`conv1.weight:stored`) -> how many read it. A weight that
            several ops share is stored once.
    """
    holders: dict[int, list[str]] = defaultdict(list)
    count: dict[int, int] = defaultdict(int)
    for target, name in module_names(lower(graph)).items():
        weight = getattr(graph[name].layer, "weight", None)
        holders[id(weight)].append(name)
        count[id(weight)] += reads.get(f"{target}.weight", 0)
        count[id(weight)] += reads.get(f"{name}.weight:stored", 0)
    return {name for key, names in holders.items() for name in names[: count[key]]}


def holders_of_weights(graph: Graph, read: Iterable[np.ndarray[Any, Any]]) -> set[str]:
    """The ops whose stored integers these are, in whatever order a runtime lays them out.

    Args:
        graph: what the file was written from.
        read: int8 arrays that integer kernels read, one for each kernel.
    """
    count = Counter(_occurrences(array) for array in read)
    holders: dict[bytes, list[str]] = defaultdict(list)
    for op in graph:
        if op.int8 and op.role in PRODUCTS:
            weight: Any = op.layer
            holders[_occurrences(weight.weight.detach().cpu().numpy())].append(op.name)
    return {name for key, names in holders.items() for name in names[: count[key]]}


def _occurrences(array: np.ndarray[Any, Any]) -> bytes:
    """How often each of the 256 values occurs, which no order changes."""
    return np.bincount(array.ravel().view(np.uint8), minlength=256).tobytes()
