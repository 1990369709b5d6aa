"""nncf's decisions -> edits of our graph.

nncf returns the traced module with quantize/dequantize pairs on edges, int8 weights, corrected
biases and, for transformers, smoothing factors. Walking that module beside the traced one, each of
these becomes an edit of the op it belongs to, so names and lineage survive.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import fx, nn

from compressc.errors import CompresscError
from compressc.ir import Graph, Op, Ref, TensorType
from compressc.ir.number_forms import INT8_PER_CHANNEL
from compressc.ir.ops import kind_of, map_arg
from compressc.ir.quantized import QUANTIZED, quantized_kind, quantized_layer
from compressc_quant.scaling import scaled
from compressc_quant.tracing import Traced

#: Told of an op and what became of it.
Note = Callable[[str, str], None]

_QDQ = "quantized_decomposed"
_WEIGHT, _BIAS = 1, 2  # positions of an ATen linear's or conv's tensors


@dataclass(frozen=True)
class Int8Weight:
    """A weight as nncf left it: s8 values and one f32 scale per channel."""

    values: torch.Tensor
    scale: torch.Tensor


def carry_over(
    graph: Graph, traced: Traced, quantized: fx.GraphModule, note: Note = lambda op, text: None
) -> None:
    """Edit `graph` so that it computes what nncf's module computes.

    Args:
        graph: the graph that was traced.
        traced: the module nncf was given.
        quantized: the module nncf returned.
        note: told (op, reason) where a decision of nncf has no place in the graph.
    """
    _Carrier(graph, traced, quantized, note).run()


class _Carrier:
    """Walks both modules once; knows which op of the graph each node's value now is."""

    def __init__(self, graph: Graph, traced: Traced, quantized: fx.GraphModule, note: Note) -> None:
        self.graph, self.origin, self.quantized = graph, traced.origin, quantized
        self.traced = {node.name: node for node in traced.module.graph.nodes}
        self.note = note
        self.value: dict[fx.Node, str] = {}
        self.weights: dict[int, Int8Weight] = {}
        self.made: dict[tuple[Any, ...], str] = {}

    def run(self) -> None:
        for node in self.quantized.graph.nodes:
            if node.op == "output":
                self._outputs(node)
            elif node.name in self.origin:
                self._original(node)
            elif node.op == "call_module":
                self._smooth(node)
            elif node.op == "call_function" and node.args[0] in self.value:
                self._insert(node)

    # ---- what nncf added -----------------------------------------------------------------------

    def _insert(self, node: fx.Node) -> None:
        """A quantize or dequantize of an activation becomes an op behind the value it reads."""
        assert isinstance(node.target, torch._ops.OpOverload)
        kind = kind_of(node.target)
        if not kind.startswith(_QDQ):
            raise CompresscError(
                "CC601", "nncf must add nothing but quantize and dequantize", got=kind
            )
        first, *rest = node.args
        source = self.value[first]  # type: ignore[index]
        constants = tuple(map_arg(rest, self._constant))
        key = (kind, source, constants)
        if key not in self.made:  # nncf repeats a dequantize for each reader
            suffix, dtype = ("dq", torch.float32) if ".dequantize" in kind else ("q", rest[-1])
            type_ = TensorType(dtype, self.graph.type_of(source).shape)  # type: ignore[arg-type]
            name = self.graph.fresh_name(f"{source.removesuffix('.q')}.{suffix}")
            op = Op(name, kind, (Ref(source), *constants), type=type_)
            self.made[key] = self.graph.insert_after(source, op).name
        self.value[node] = self.made[key]

    def _constant(self, arg: Any) -> Any:
        return self._tensor(arg).item() if isinstance(arg, fx.Node) else arg

    def _smooth(self, node: fx.Node) -> None:
        """SmoothQuant (arXiv 2211.10438): the activation times 1/s, where the weight took s."""
        source = self.value[node.args[0]]  # type: ignore[index]
        module = self.quantized.get_submodule(str(node.target))
        (factor,) = (t.detach().clone() for t in module.state_dict().values())
        self.value[node] = scaled(self.graph, source, factor, 1)

    # ---- what was there before -----------------------------------------------------------------

    def _original(self, node: fx.Node) -> None:
        name = self.origin[node.name]
        self.value[node] = name
        if node.op != "call_function":
            return
        before = self.traced[node.name]
        moved = self._moved(before.args, node.args)
        if moved:
            op = self.graph[name]
            self.graph.set_inputs(name, map_arg(op.args, _renaming(moved)))
        if self.graph[name].kind in QUANTIZED:
            self._weights(self.graph[name], node)

    def _moved(self, before: Any, after: Any) -> dict[str, str]:
        """Values that are now read behind a dequantize (or a smoothing): old op -> new op."""
        moved: dict[str, str] = {}
        for old, new in zip_longest(_flat(before), _flat(after)):
            source = self.origin.get(old.name) if isinstance(old, fx.Node) else None
            target = self.value.get(new) if isinstance(new, fx.Node) else None
            if source is not None and target is not None and source != target:
                moved[source] = target
        return moved

    def _weights(self, op: Op, node: fx.Node) -> None:
        """Weight and bias of a layer as nncf left them."""
        layer = op.layer
        assert layer is not None
        embedding = op.role == "embedding"
        bias = None if embedding or len(node.args) <= _BIAS else node.args[_BIAS]
        if isinstance(bias, fx.Node):
            self._set_float(layer, "bias", self._tensor(bias).reshape(-1))
        weight = node.args[0 if embedding else _WEIGHT]
        if not isinstance(weight, fx.Node):
            return
        if weight.op == "get_attr":
            self._set_float(layer, "weight", self._tensor(weight))
            return
        found = self._int8_weight(weight)
        if found is None:
            self.note(op.name, "its weight has a zero point or a layout without a kernel")
            return
        found = self._tied(layer, found)
        made = quantized_layer(op.kind, layer, found.values, found.scale)
        self.graph.set_layer(op.name, made, quantized_kind(op.kind))

    def _set_float(self, layer: nn.Module, name: str, value: torch.Tensor) -> None:
        """Take over a tensor that nncf corrected; an unchanged one stays itself, so ties hold."""
        old = layer._parameters.get(name)
        if old is None or not torch.equal(old, value):
            layer._parameters[name] = nn.Parameter(value.clone())

    def _int8_weight(self, node: fx.Node) -> Int8Weight | None:
        """`sub(mul(int8, scale), zero_point)` is how nncf writes an int8 weight."""
        product, zero = node.args if node.target is torch.ops.aten.sub.Tensor else (None, None)
        if not isinstance(product, fx.Node) or product.target is not torch.ops.aten.mul.Tensor:
            return None
        values, scale = (self._value_of(arg) for arg in product.args)
        if self._value_of(zero).any() or values.dtype is not INT8_PER_CHANNEL.dtype:
            return None
        return Int8Weight(values, scale.float().reshape(-1).clone())

    def _tied(self, layer: nn.Module, found: Int8Weight) -> Int8Weight:
        """Layers that shared a float weight share the int8 one, where nncf left them equal."""
        first = self.weights.setdefault(id(layer._parameters["weight"]), found)
        same = torch.equal(first.values, found.values) and torch.equal(first.scale, found.scale)
        return first if same else found

    def _value_of(self, arg: Any) -> torch.Tensor:
        return self._tensor(arg) if isinstance(arg, fx.Node) else torch.as_tensor(arg)

    def _tensor(self, node: fx.Node) -> torch.Tensor:
        found: torch.Tensor = operator.attrgetter(str(node.target))(self.quantized)
        return found.detach()

    def _outputs(self, node: fx.Node) -> None:
        """An output that is quantized is read behind its dequantize, as nncf has it."""
        before = next(n for n in self.traced.values() if n.op == "output")
        moved = self._moved(before.args, node.args)
        self.graph.outputs = map_arg(self.graph.outputs, _renaming(moved))


def _renaming(moved: Mapping[str, str]) -> Callable[[Any], Any]:
    return lambda arg: Ref(moved.get(arg.name, arg.name)) if isinstance(arg, Ref) else arg


def _flat(arg: Any) -> Iterator[Any]:
    if isinstance(arg, tuple | list):
        for item in arg:
            yield from _flat(item)
    else:
        yield arg
