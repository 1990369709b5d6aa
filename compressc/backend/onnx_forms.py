"""Weights in number forms, and inputs that are rounded at run time, as ONNX and runtimes have them.

The exporter writes out how a layer unpacks its weight and rounds its input. Here that becomes what
runtimes have for it: `DequantizeLinear` of 4- or 8-bit integers in blocks (ONNX, opset 21), which
OpenVINO keeps compressed; for ONNX Runtime `MatMulNBits` and `GatherBlockQuantized`, which it runs
without ever making a float weight (it dequantizes a `DequantizeLinear` anew in each run); and
`DynamicQuantizeLinear` with `MatMulInteger`, which it fuses.
"""

from __future__ import annotations

from typing import Any

import torch

from compressc.backend.executed import COMPUTING
from compressc.backend.onnx_nodes import MICROSOFT, Nodes
from compressc.ir import Graph, Op
from compressc.ir.number_forms import INT8_PER_CHANNEL, NumberForm, unpack

#: Where 4-bit types and blocks of `DequantizeLinear` are from, and the IR version that knows them.
_OPSET, _IR_VERSION = 21, 10
#: Of `MatMulNBits`: products in f32. 4 would round activations to int8.
_FLOAT_PRODUCTS = 1
#: The smallest block of ONNX Runtime's operators.
_LEAST_BLOCK = 16
#: Where a zero point lies that is not said: integers of 4 bits are stored without a sign.
_MIDDLE = 0x88


def has_forms(graph: Graph) -> bool:
    """Whether a layer has a form that the exporter's own nodes do not express."""
    return any(_is_special(op) for op in graph)


def write_forms(model: Any, graph: Graph, *, contrib: bool) -> None:
    """Put operators of ONNX and its runtime in the place of what the exporter wrote out.

    Args:
        model: an `onnx_ir.Model`, not optimized yet; what is not read any more stays in it.
        graph: what it was exported from.
        contrib: whether ONNX Runtime's own operators may be used.
    """
    _Writer(model, graph, contrib).run()


def _is_special(op: Op) -> bool:
    if op.role == "recurrent":  # see `onnx_recurrent`
        return False
    return op.weight_form not in (None, INT8_PER_CHANNEL) or op.input_form is not None


class _Writer(Nodes):
    def __init__(self, model: Any, graph: Graph, contrib: bool) -> None:
        super().__init__(model, graph)
        self.contrib = contrib
        self.stored: dict[tuple[int, str], Any] = {}
        self.rounded: dict[str, Any] = {}
        self.kept: list[torch.Tensor] = []  # alive, so that no two have one id

    def run(self) -> None:
        scopes = self.of_ops()
        for op in self.graph:
            if _is_special(op):
                self._rewrite(op, scopes[op.name])

    def _rewrite(self, op: Op, nodes: list[Any]) -> None:
        form = op.weight_form
        assert form is not None
        if op.role == "embedding":
            if self.contrib and _fits(form) and form.packed:
                self._look_up(op, form, nodes)
            return
        (node,) = [node for node in nodes if node.op_type in COMPUTING]
        if op.input_form is not None:
            self._multiply_integers(op, node, nodes)
        elif self.contrib and op.role == "linear" and form.packed and _fits(form):
            self._multiply_packed(op, form, node)
        elif form != INT8_PER_CHANNEL:
            weight = self._dequantized(op, form, node)
            if node.op_type == "MatMul":
                weight = self.before(node, "Transpose", [weight], perm=[1, 0])
            node.replace_input_with(1, weight)

    # ---- what takes the place -------------------------------------------------------------------

    def _dequantized(self, op: Op, form: NumberForm, node: Any) -> Any:
        """The float weight by `DequantizeLinear`, in the layer's shape."""
        layer: Any = op.layer
        shape = layer.weight_shape()
        rows, groups = shape[0], form.groups(shape)
        count = int(torch.Size(shape).numel()) // max(1, rows)
        blocks: dict[str, Any] = {} if form.group is None else {"block_size": form.group}
        inputs = [
            self._integers(op, "weight", form, (rows, count)),
            self._tensor(op, "scale", layer.scale),
        ]
        if form.zero_point:
            wanted = (rows,) if form.group is None else (rows, groups)
            inputs.append(self._integers(op, "zero_point", form, wanted))
        axis = 0 if form.group is None else 1
        value = self.before(node, "DequantizeLinear", inputs, axis=axis, **blocks)
        self._raise_versions()
        if len(shape) == 2:
            return value
        sizes = self._tensor(op, "shape", torch.tensor(shape))
        return self.before(node, "Reshape", [value, sizes])

    def _multiply_packed(self, op: Op, form: NumberForm, node: Any) -> None:
        layer: Any = op.layer
        rows, count = layer.weight_shape()
        assert form.group is not None
        blocks = (rows, count // form.group, form.group // 2)
        packed = _unsigned(layer.weight, form).reshape(blocks)
        inputs = [
            node.inputs[0],
            self._tensor(op, "weight", packed, layer.weight),
            self._tensor(op, "scale", layer.scale),
        ]
        if form.zero_point:
            zeros = _unsigned(layer.zero_point, form)
            inputs.append(self._tensor(op, "zero_point", zeros, layer.zero_point))
        product = self.before(
            node,
            "MatMulNBits",
            inputs,
            domain=MICROSOFT,
            K=count,
            N=rows,
            bits=form.bits,
            block_size=form.group,
            accuracy_level=_FLOAT_PRODUCTS,
        )
        self._put(node, product)

    def _look_up(self, op: Op, form: NumberForm, nodes: list[Any]) -> None:
        layer: Any = op.layer
        gather = next(node for node in nodes if node.op_type == "Gather")
        packed = _unsigned(layer.weight, form)
        inputs = [
            self._tensor(op, "weight", packed, layer.weight),
            gather.inputs[1],
            self._tensor(op, "scale", layer.scale),
        ]
        if form.zero_point:
            zeros = _unsigned(layer.zero_point, form)
            inputs.append(self._tensor(op, "zero_point", zeros, layer.zero_point))
        rows = self.before(
            nodes[-1],
            "GatherBlockQuantized",
            inputs,
            domain=MICROSOFT,
            bits=form.bits,
            block_size=form.group,
            gather_axis=0,
            quantize_axis=1,
        )
        self.replace(nodes[-1].outputs[0], rows)

    def _multiply_integers(self, op: Op, node: Any, nodes: list[Any]) -> None:
        """x is rounded once, whoever reads it; the products are integers, then scaled."""
        layer: Any = op.layer
        source = next(n for n in nodes if n.op_type == "ReduceMin").inputs[0]
        if source.name not in self.rounded:
            first = next(n for n in nodes if n.op_type == "ReduceMin")
            made = self.ir.node("DynamicQuantizeLinear", [source], num_outputs=3)
            self.model.graph.insert_before(first, made)
            self.rounded[source.name] = made.outputs
        x, scale, zero = self.rounded[source.name]
        if not self.contrib:  # OpenVINO would store the weight of a MatMulInteger as floats
            node.replace_input_with(0, self.before(node, "DequantizeLinear", [x, scale, zero]))
            return
        turned = self._tensor(op, "weight", layer.weight.T.contiguous(), layer.weight)
        sums = self.before(node, "MatMulInteger", [x, turned, zero])
        floats = self.before(node, "Cast", [sums], to=self.ir.DataType.FLOAT)
        own = self._tensor(op, "scale", layer.scale)
        factor = self.before(node, "Mul", [scale, own])
        self._put(node, self.before(node, "Mul", [floats, factor]))

    # ---- pieces ---------------------------------------------------------------------------------

    def _put(self, node: Any, product: Any) -> None:
        """A product in the place of a `MatMul`, or with the bias of a `Gemm`."""
        if node.op_type == "Gemm" and len(node.inputs) > 2:
            product = self.before(node, "Add", [product, node.inputs[2]])
        self.replace(node.outputs[0], product)

    def _integers(self, op: Op, local: str, form: NumberForm, shape: tuple[int, ...]) -> Any:
        """A stored tensor with a type of 4 or 8 bits, in the shape of its numbers."""
        tensor = getattr(op.layer, local)
        if not form.packed:
            return self._tensor(op, local, tensor.reshape(shape), tensor)
        values = unpack(tensor, form, shape[-1] if len(shape) > 1 else 1)
        return self._tensor(op, f"{local}:{form.name}", values.reshape(shape), tensor, form)

    def _tensor(
        self,
        op: Op,
        local: str,
        value: torch.Tensor,
        source: torch.Tensor | None = None,
        form: NumberForm | None = None,
    ) -> Any:
        """A stored tensor; one for all layers that share its source."""
        key = (id(value if source is None else source), f"{local} {tuple(value.shape)}")
        if key not in self.stored:
            self.kept.append(value if source is None else source)
            name = f"{op.name}.{local}:stored"
            array: Any = value.detach().contiguous().numpy()
            if form is not None:
                array = array.astype(_element(form))
            self.stored[key] = self.hold(name, self.ir.tensor(array, name=name))
        return self.stored[key]

    def _raise_versions(self) -> None:
        """Nothing that the exporter writes has changed up to `_OPSET`, except group norms."""
        imports = self.model.opset_imports
        imports[""] = max(imports[""], _OPSET)
        self.model.ir_version = max(self.model.ir_version or 0, _IR_VERSION)


def _fits(form: NumberForm) -> bool:
    """Whether ONNX Runtime's operators take blocks of that size."""
    group = form.group or 0
    return group >= _LEAST_BLOCK and group & (group - 1) == 0


def _unsigned(stored: torch.Tensor, form: NumberForm) -> torch.Tensor:
    """Packed integers counted from the middle, as ONNX Runtime takes them without zero points."""
    return stored ^ _MIDDLE if form.signed else stored


def _element(form: NumberForm) -> Any:
    """What numpy calls integers of so few bits."""
    import ml_dtypes

    return getattr(ml_dtypes, ("" if form.signed else "u") + f"int{form.bits}")
