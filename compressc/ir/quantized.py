"""Layers whose weight is stored in a number form: int8 with a scale per channel, or another.

They are written quantize-dequantize (QDQ): the forward pass turns the weight back into floats and
calls the float operation. So the IR, torch.export, ONNX and OpenVINO all see one form, and a
runtime that finds the pair of dequantized weight and dequantized input runs its int8 kernel in its
place. int8 with a scale per channel goes through the library's
`quantized_decomposed.dequantize_per_channel`, which exporters know; all other forms are written
out, and back ends put what their runtime has in their place.

Such an int8 weight is symmetric (no zero point): with one, every int8 kernel would have to add a
correction term per output.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import nn

from compressc.ir.layer_building import build_layer, layer_tensors
from compressc.ir.layers import LAYERS, register_layer
from compressc.ir.number_forms import (
    INT8_PER_CHANNEL,
    NumberForm,
    dequantize,
    round_dynamically,
)
from compressc.ir.ops import Op, layer_attributes
from compressc.ir.trainable import TWIN
from compressc.ir.types import TensorType

#: The pair of calls around a value that is stored as integers, with one scale.
QUANTIZE = "quantized_decomposed.quantize_per_tensor"
DEQUANTIZE = "quantized_decomposed.dequantize_per_tensor"
#: Buffers of a layer that say what its stored integers stand for.
SCALING = ("scale", "zero_point")
#: The weight's dimension that has scales per index.
_AXIS = 0


@cache
def _dequantize() -> Callable[..., torch.Tensor]:
    """The library's op. Importing its module registers it: a cost only quantized graphs pay."""
    importlib.import_module("torch.ao.quantization.fx._decomposed")
    found: Callable[..., torch.Tensor] = torch.ops.quantized_decomposed.dequantize_per_channel
    return found


def float_rows(stored: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Integers s8[rows, ...] with a scale per row as floats."""
    form = INT8_PER_CHANNEL
    return _dequantize()(stored, scale, None, _AXIS, form.least, form.most, form.dtype)


class _StoredWeight:
    """Mixed into a float layer: its weight becomes a buffer of integers beside its scales.

    Attributes:
        weight_form: how the weight is stored.
        input_form: how values are rounded in front of the product; None: they stay floats.
        weight: the integers, shaped as the form says.
        scale: f32[channels] or f32[channels, groups].
        zero_point: stored as the weight is, where its form has zero points.
    """

    def __init__(
        self,
        *args: Any,
        weight_form: NumberForm = INT8_PER_CHANNEL,
        input_form: NumberForm | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        module = cast(nn.Module, self)
        blank = cast(torch.Tensor, module._parameters.pop("weight"))
        check_forms(weight_form, input_form)
        self.weight_form, self.input_form = weight_form, input_form
        shape, place = tuple(blank.shape), blank.device
        scales = weight_form.scale_shape(shape)
        stored = torch.zeros(
            weight_form.stored_shape(shape), dtype=weight_form.stored_dtype, device=place
        )
        module.register_buffer("weight", stored)
        module.register_buffer("scale", torch.ones(scales, device=place))
        if weight_form.zero_point:
            kept = weight_form.stored_shape((shape[_AXIS], weight_form.groups(shape)))
            zeros = torch.zeros(kept, dtype=weight_form.stored_dtype, device=place)
            module.register_buffer("zero_point", zeros)

    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the float layer's weight, by the layer's attributes."""
        raise NotImplementedError

    def stored_shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensors that the form is about -> their shapes in the float layer."""
        return {"weight": self.weight_shape()}

    def float_weight(self) -> torch.Tensor:
        """The weight as it is computed with, f32 in the float layer's shape."""
        own, form = cast(Any, self), self.weight_form
        if self.in_training:
            twin: torch.Tensor = own.twin()
            return twin
        if form == INT8_PER_CHANNEL:
            return float_rows(own.weight, own.scale)
        shape = self.weight_shape()
        rows, zeros = own.weight.flatten(1), getattr(self, "zero_point", None)
        return dequantize(rows, own.scale, zeros, form, math.prod(shape[1:])).reshape(shape)

    def rounded(self, input: torch.Tensor) -> torch.Tensor:
        """What the layer is given, as it computes with it."""
        if self.input_form is None:
            return input
        found = round_dynamically(input, self.input_form)
        return input + (found - input).detach() if self.in_training else found

    @property
    def in_training(self) -> bool:
        """Whether a trainable twin stands in for the stored weight."""
        return TWIN in cast(nn.Module, self)._modules


def check_forms(weight: NumberForm, input: NumberForm | None) -> None:
    """See that layers know such forms.

    Raises:
        ValueError: where they do not.
    """
    if weight.axis != _AXIS or weight.dynamic:
        raise ValueError(f"a weight has scales per index of dimension {_AXIS}, not {weight}")
    if input is not None and (input.axis is not None or not input.dynamic or input.packed):
        raise ValueError(f"a layer rounds its input with one scale of its own, not {input}")


class QuantizedLinear(_StoredWeight, nn.Linear):
    """`linear` with a stored weight [out, in]; int8, a scale per output where nothing is said."""

    def weight_shape(self) -> tuple[int, ...]:
        """[out, in]."""
        return self.out_features, self.in_features

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """x W^T + b."""
        return F.linear(self.rounded(input), self.float_weight(), self.bias)


class _QuantizedConv(_StoredWeight):
    def weight_shape(self) -> tuple[int, ...]:
        """[out, in / groups, *kernel]."""
        own = cast(Any, self)
        return own.out_channels, own.in_channels // own.groups, *own.kernel_size

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The convolution of the float layer."""
        result: torch.Tensor = cast(Any, self)._conv_forward(
            self.rounded(input), self.float_weight(), cast(Any, self).bias
        )
        return result


class QuantizedConv1d(_QuantizedConv, nn.Conv1d):
    """`conv1d` with a stored weight [out, in / groups, k]."""


class QuantizedConv2d(_QuantizedConv, nn.Conv2d):
    """`conv2d` with a stored weight [out, in / groups, kh, kw]."""


class QuantizedConv3d(_QuantizedConv, nn.Conv3d):
    """`conv3d` with a stored weight [out, in / groups, kd, kh, kw]."""


class _QuantizedConvTranspose(_StoredWeight):
    """Scaled per *input* channel, as nncf has it: stored in integers, computed in float."""

    CONVOLVE: ClassVar[Callable[..., torch.Tensor]]

    def weight_shape(self) -> tuple[int, ...]:
        """[in, out / groups, *kernel]."""
        own = cast(Any, self)
        return own.in_channels, own.out_channels // own.groups, *own.kernel_size

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The transposed convolution of the float layer."""
        own, convolve = cast(Any, self), type(self).CONVOLVE
        sizes = own.stride, own.padding, own.output_padding, own.groups, own.dilation
        return convolve(self.rounded(input), self.float_weight(), own.bias, *sizes)


class QuantizedConvTranspose1d(_QuantizedConvTranspose, nn.ConvTranspose1d):  # type: ignore[misc]
    """`conv_transpose1d` with a stored weight [in, out / groups, k]."""

    CONVOLVE = staticmethod(F.conv_transpose1d)


class QuantizedConvTranspose2d(_QuantizedConvTranspose, nn.ConvTranspose2d):  # type: ignore[misc]
    """`conv_transpose2d` with a stored weight [in, out / groups, kh, kw]."""

    CONVOLVE = staticmethod(F.conv_transpose2d)


class QuantizedConvTranspose3d(_QuantizedConvTranspose, nn.ConvTranspose3d):  # type: ignore[misc]
    """`conv_transpose3d` with a stored weight [in, out / groups, kd, kh, kw]."""

    CONVOLVE = staticmethod(F.conv_transpose3d)


class QuantizedEmbedding(_StoredWeight, nn.Embedding):
    """`embedding` with a stored table [rows, width]; int8 with a scale per row unless said."""

    def weight_shape(self) -> tuple[int, ...]:
        """[rows, width]."""
        return self.num_embeddings, self.embedding_dim

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The rows that the indices name; only those are turned into floats, never the table."""
        form, scales = self.weight_form, cast(torch.Tensor, self.scale)
        if self.in_training:
            return F.embedding(input, self.float_weight())
        if form == INT8_PER_CHANNEL:
            rows, scale = F.embedding(input, self.weight), F.embedding(input, scales[:, None])
            return rows.to(scale.dtype) * scale
        rows = F.embedding(input, self.weight)
        scale = F.embedding(input, scales if form.group else scales[:, None])
        zeros = cast("torch.Tensor | None", getattr(self, "zero_point", None))
        zeros = None if zeros is None else F.embedding(input, zeros)
        return dequantize(
            rows, scale if form.group else scale.squeeze(-1), zeros, form, self.embedding_dim
        )


#: Kind of a float layer -> the class of its quantized form.
QUANTIZED: dict[str, type[nn.Module]] = {
    "linear": QuantizedLinear,
    "conv1d": QuantizedConv1d,
    "conv2d": QuantizedConv2d,
    "conv3d": QuantizedConv3d,
    "conv_transpose1d": QuantizedConvTranspose1d,
    "conv_transpose2d": QuantizedConvTranspose2d,
    "conv_transpose3d": QuantizedConvTranspose3d,
    "embedding": QuantizedEmbedding,
}
#: Text name -> attribute, of what a quantized layer has beside those of its float form.
FORMS = {"weight": "weight_form", "input": "input_form"}


def quantized_kind(kind: str) -> str:
    """What the quantized form of a float layer's kind is called."""
    return f"quantized_{kind}"


def register_quantized(kind: str, module: type[nn.Module]) -> None:
    """Register the class of the quantized form of a float layer's kind."""
    plain = LAYERS[kind]
    register_layer(
        quantized_kind(kind),
        replace(
            plain,
            module=module,
            attributes={**plain.attributes, **FORMS},
            defaults={**plain.defaults, "weight": INT8_PER_CHANNEL, "input": None},
            form=INT8_PER_CHANNEL,
        ),
    )


for _kind, _module in QUANTIZED.items():
    register_quantized(_kind, _module)


def quantized_layer(  # noqa: PLR0913  (the layer, and what it stores)
    kind: str,
    layer: nn.Module,
    weight: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None = None,
    *,
    form: NumberForm = INT8_PER_CHANNEL,
    input: NumberForm | None = None,
) -> nn.Module:
    """The quantized form of a float layer.

    Args:
        kind: kind of the float layer, a key of `QUANTIZED`.
        layer: the float layer; its bias is shared, its weight is not read.
        weight: the integers as the form stores them; s8 in the float weight's shape.
        scale: f32, one per index of the weight's first dimension, or [channels, groups].
        zero_point: as the form stores them, where it has any.
        form: of the weight.
        input: how the layer rounds what it is given; None: not at all.

    Raises:
        ValueError: where one of them does not have the shape that layer and form give it.
    """
    attributes = layer_attributes(Op("", kind, layer=layer))
    if form != INT8_PER_CHANNEL:
        attributes["weight"] = form
    if input is not None:
        attributes["input"] = input
    made = build_layer(quantized_kind(kind), attributes)
    stored = {"weight": weight, "scale": scale}
    if zero_point is not None:
        stored["zero_point"] = zero_point
    for name in made._buffers.keys() | stored.keys():
        blank, value = made._buffers.get(name), stored.get(name)
        if blank is None or value is None or blank.shape != value.shape:
            shape = "missing" if value is None else tuple(value.shape)
            raise ValueError(f"{name} is {shape}, not the layer's shape")
        made._buffers[name] = value
    if "bias" in layer._parameters:
        made._parameters["bias"] = layer._parameters["bias"]
    return made


def stored_types(op: Op) -> Iterator[tuple[str, torch.Tensor, TensorType]]:
    """What an op's layer holds: local name, tensor, and the type that its numbers have."""
    form, layer, shapes = op.weight_form, op.layer, stored_shapes(op)
    for name, tensor in layer_tensors(layer) if layer is not None else ():
        type_ = TensorType(tensor.dtype, tuple(tensor.shape))
        if form is not None and name in shapes:
            type_ = TensorType(form.dtype, shapes[name], form)
        elif form is not None and name == "zero_point" and shapes:
            shape = shapes["weight"]
            type_ = TensorType(form.dtype, (shape[_AXIS], form.groups(shape)))
        yield name, tensor, type_


def stored_shapes(op: Op) -> dict[str, tuple[int, ...]]:
    """Tensors of an op's layer that its weight form is about -> their shapes as floats."""
    if op.weight_form is None or not hasattr(op.layer, "stored_shapes"):
        return {}
    found: dict[str, tuple[int, ...]] = op.layer.stored_shapes()  # type: ignore[union-attr,operator]
    return found


def is_scaling(local: str) -> bool:
    """Whether a layer's tensor says what stored integers stand for, by its name."""
    return local in SCALING or local.endswith("_scale")
