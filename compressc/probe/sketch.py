"""ONNX models of a few nodes, for timing: the weights are one number, and no bytes of the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

#: Of the files that the ONNX back end writes.
OPSET, IR_VERSION = 20, 10
#: Every weight: small enough that no sum overflows, large enough that none is denormal.
WEIGHT = 0.01
#: What the first dimension of every input is called.
BATCH = "b"
_DTYPES = {torch.float32: "FLOAT", torch.int64: "INT64", torch.int32: "INT32"}


@dataclass
class Sketch:
    """A model in the making.

    Attributes:
        inputs: dtype and shape of each, for who times it.
    """

    inputs: list[dict[str, Any]] = field(default_factory=list)
    _nodes: list[Any] = field(default_factory=list)
    _values: list[Any] = field(default_factory=list)
    _constants: list[Any] = field(default_factory=list)
    _count: int = 0

    def read(self, dtype: torch.dtype, shape: Sequence[int], below: int = 2) -> str:
        """An input, open in its first dimension; integers are below a bound."""
        from onnx import TensorProto, helper

        name = self._name()
        kind = getattr(TensorProto, _DTYPES[dtype])
        open_ = [BATCH, *shape[1:]]  # as in the whole model: what is known may be fused otherwise
        self._values.append(helper.make_tensor_value_info(name, kind, open_))
        given = {"dtype": str(dtype).removeprefix("torch."), "shape": list(shape)}
        self.inputs.append(given if dtype.is_floating_point else {**given, "below": below})
        return name

    def weight(self, *shape: int) -> str:
        """A tensor of that shape; the runtime makes it when it loads the model."""
        from onnx import TensorProto, helper

        value = helper.make_tensor("value", TensorProto.FLOAT, [1], [WEIGHT])
        return self.node("ConstantOfShape", self.integers(*shape), value=value)

    def integers(self, *values: int) -> str:
        """A constant i64[n]."""
        from onnx import TensorProto, helper

        name = self._name()
        self._constants.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], values))
        return name

    def number(self, value: float) -> str:
        """A constant f32[]."""
        from onnx import TensorProto, helper

        name = self._name()
        self._constants.append(helper.make_tensor(name, TensorProto.FLOAT, [], [value]))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node; the name of its result."""
        from onnx import helper

        name = self._name()
        self._nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def model(self, result: str) -> bytes:
        """The model that gives `result`."""
        from onnx import helper

        out = helper.make_empty_tensor_value_info(result)
        graph = helper.make_graph(self._nodes, "layer", self._values, [out], self._constants)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        made: bytes = _typed(model).SerializeToString(deterministic=True)
        return made

    def _name(self) -> str:
        self._count += 1
        return f"v{self._count}"


def _typed(model: Any) -> Any:
    """With the type of its output, which a runtime asks for."""
    import onnx

    return onnx.shape_inference.infer_shapes(model)


def described(values: Mapping[str, Any]) -> str:
    """`kernel=3, stride=2`: attributes as a signature has them."""
    return ", ".join(f"{key}={value}" for key, value in values.items())
