"""nncf's decisions -> edits of our graph.

nncf returns the traced module with quantize/dequantize pairs on edges, int8 weights, corrected
biases and, for transformers, smoothing factors. Walking that module beside the traced one, each of
these becomes an edit of the op it belongs to, so names and lineage survive.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import fx, nn

from compressc.ir import Graph, Op, Ref, Tensor, TensorType
from compressc.ir.ops import kind_of, map_arg
from compressc.ir.quantized import QUANTIZED, quantized_layer
from compressc_quant.tracing import Traced

_QDQ = "quantized_decomposed"
_WEIGHT, _BIAS = 1, 2  # positions of an ATen linear's or conv's tensors


@dataclass(frozen=True)
class Int8Weight:
    """A weight as nncf left it: s8 values and one f32 scale per channel."""

    values: torch.Tensor
    scale: torch.Tensor


def carry_over(graph: Graph, traced: Traced, quantized: fx.GraphModule) -> None:
    """Edit `graph` so that it computes what nncf's module computes.

    Args:
        graph: the graph that was traced.
        traced: the module nncf was given.
        quantized: the module nncf returned.
    """
    _Carrier(graph, traced, quantized).run()


class _Carrier:
    """Walks both modules once; knows which op of the graph each node's value now is."""

    def __init__(self, graph: Graph, traced: Traced, quantized: fx.GraphModule) -> None:
        self.graph, self.origin, self.quantized = graph, traced.origin, quantized
        self.traced = {node.name: node for node in traced.module.graph.nodes}
        self.value: dict[fx.Node, str] = {}
        self.made: dict[tuple[Any, ...], str] = {}

    def run(self) -> None:
        inputs = iter(self.graph.inputs)
        for node in self.quantized.graph.nodes:
            if node.op == "placeholder":
                self.value[node] = next(inputs).name
            elif node.op == "output":
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
            raise ValueError(f"nncf added an operation that has no place in the graph: {kind}")
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
        stem = self.graph.fresh_name(f"{source}.smooth")
        type_ = TensorType(factor.dtype, tuple(factor.shape))
        constant = Op(f"{stem}.factor", "constant", layer=Tensor(factor), type=type_)
        self.graph.insert_after(source, constant)
        product = Op(
            stem,
            "aten.mul.Tensor",
            (Ref(source), Ref(constant.name)),
            type=self.graph.type_of(source),
        )
        self.value[node] = self.graph.insert_after(constant.name, product).name

    # ---- what was there before -----------------------------------------------------------------

    def _original(self, node: fx.Node) -> None:
        name = self.origin[node.name]
        self.value[node] = name
        if node.op == "get_attr":
            return
        op = self.graph[name]
        self._reconnect(op, node)
        if op.kind in QUANTIZED:
            self._weights(op, node)

    def _reconnect(self, op: Op, node: fx.Node) -> None:
        """Operands that now come from a dequantize (or a smoothing) are read from there."""
        before, after = self.traced[node.name], node
        moved: dict[str, str] = {}
        for old, new in zip_longest(_flat(before.args), _flat(after.args)):
            if isinstance(old, fx.Node) and old.name in self.origin or _is_input(old):
                source = self.origin.get(old.name) or self._input_name(old)
                target = self.value.get(new)
                if target is not None and target != source:
                    moved[source] = target
        if moved:
            change = lambda arg: Ref(moved.get(arg.name, arg.name)) if isinstance(arg, Ref) else arg  # noqa: E731
            self.graph.set_inputs(op.name, map_arg(op.args, change))

    def _input_name(self, node: fx.Node) -> str:
        names = [n.name for n in self.traced.values() if n.op == "placeholder"]
        return self.graph.inputs[names.index(node.name)].name

    def _weights(self, op: Op, node: fx.Node) -> None:
        """Weight and bias of a layer as nncf left them."""
        assert op.layer is not None
        weight_at = 0 if op.kind == "embedding" else _WEIGHT
        weight = self._weight(node.args[weight_at])
        bias = node.args[_BIAS] if op.kind != "embedding" and len(node.args) > _BIAS else None
        if isinstance(bias, fx.Node):
            value = self._tensor(bias)
            old = op.layer._parameters.get("bias")
            if old is None or not torch.equal(old, value.reshape(-1)):
                op.layer._parameters["bias"] = nn.Parameter(value.detach().reshape(-1).clone())
        if isinstance(weight, Int8Weight):
            layer = quantized_layer(op.kind, op.layer, weight.values, weight.scale)
            self.graph.set_layer(op.name, layer, f"quantized_{op.kind}")
        elif weight is not None and not torch.equal(op.layer.weight, weight):  # type: ignore[arg-type]
            op.layer.weight = nn.Parameter(weight.detach().clone())

    def _weight(self, arg: Any) -> Int8Weight | torch.Tensor | None:
        """`sub(mul(int8, scale), zero_point)` is how nncf writes an int8 weight."""
        if not isinstance(arg, fx.Node):
            return None
        if arg.op == "get_attr":
            return self._tensor(arg)
        if arg.target is not torch.ops.aten.sub.Tensor:
            return None
        product, zero = arg.args
        values, scale = product.args  # type: ignore[union-attr]
        if self._any(zero) or not isinstance(values, fx.Node):
            raise ValueError("a weight with a zero point has no int8 layer")
        stored = self._tensor(values)
        found = torch.as_tensor(self._tensor(scale) if isinstance(scale, fx.Node) else scale)
        return Int8Weight(stored.clone(), found.detach().reshape(-1).to(torch.float32).clone())

    def _any(self, arg: Any) -> bool:
        return bool(self._tensor(arg).any()) if isinstance(arg, fx.Node) else bool(arg)

    def _tensor(self, node: fx.Node) -> torch.Tensor:
        found: torch.Tensor = operator.attrgetter(str(node.target))(self.quantized)
        return found.detach()

    def _outputs(self, node: fx.Node) -> None:
        """An output that is quantized is read behind its dequantize, as nncf has it."""
        before = next(n for n in self.traced.values() if n.op == "output")
        moved = {
            self.origin[old.name]: self.value[new]
            for old, new in zip(_flat(before.args), _flat(node.args), strict=True)
            if isinstance(old, fx.Node) and old.name in self.origin
        }
        change = lambda arg: Ref(moved.get(arg.name, arg.name)) if isinstance(arg, Ref) else arg  # noqa: E731
        self.graph.outputs = map_arg(self.graph.outputs, change)


def _flat(arg: Any) -> Iterator[Any]:
    if isinstance(arg, tuple | list):
        for item in arg:
            yield from _flat(item)
    else:
        yield arg


def _is_input(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.op == "placeholder"
