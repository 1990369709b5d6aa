"""Layers whose weight is stored as int8, one scale per channel.

They are written quantize-dequantize (QDQ): the forward pass turns the weight back into floats with
`quantized_decomposed.dequantize_per_channel` and calls the float operation. So the IR,
torch.export, ONNX and OpenVINO all see one form, and a runtime that finds the pair of dequantized
weight and dequantized input runs its int8 kernel in its place.

Weights are symmetric (no zero point): with one, every int8 kernel would have to add a correction
term per output.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import nn

from compressc.ir.layer_building import build_layer
from compressc.ir.layers import LAYERS, register_layer
from compressc.ir.ops import Op, layer_attributes

#: The pair of calls around a value that is stored as int8, with one scale.
QUANTIZE = "quantized_decomposed.quantize_per_tensor"
DEQUANTIZE = "quantized_decomposed.dequantize_per_tensor"
#: s8 weights use -127..127: the range stays symmetric, as `-scale * 128` has no positive partner.
WEIGHT_MIN, WEIGHT_MAX = -127, 127
#: The weight's dimension that has one scale per index.
_AXIS = 0


@cache
def _dequantize() -> Callable[..., torch.Tensor]:
    """The library's op. Importing its module registers it: a cost only quantized graphs pay."""
    importlib.import_module("torch.ao.quantization.fx._decomposed")
    found: Callable[..., torch.Tensor] = torch.ops.quantized_decomposed.dequantize_per_channel
    return found


class _Int8Weight:
    """Mixed into a float layer: its weight becomes an int8 buffer beside a scale.

    Attributes:
        weight: s8, shaped like the float layer's weight.
        scale: f32[channels], one for each index of the weight's first dimension.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        module = cast(nn.Module, self)
        blank = cast(torch.Tensor, module._parameters.pop("weight"))
        module.register_buffer("weight", torch.zeros_like(blank, dtype=torch.int8))
        channels = blank.shape[_AXIS]
        module.register_buffer("scale", torch.ones(channels, device=blank.device))

    def float_weight(self) -> torch.Tensor:
        """The weight as it is computed with, f32 in the float layer's shape."""
        weight, scale = cast(Any, self).weight, cast(Any, self).scale
        return _dequantize()(weight, scale, None, _AXIS, WEIGHT_MIN, WEIGHT_MAX, torch.int8)


class QuantizedLinear(_Int8Weight, nn.Linear):
    """`linear` with an int8 weight [out, in] and a scale per output."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """x W^T + b."""
        return F.linear(input, self.float_weight(), self.bias)


class _QuantizedConv(_Int8Weight):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The convolution of the float layer."""
        result: torch.Tensor = cast(Any, self)._conv_forward(
            input, self.float_weight(), cast(Any, self).bias
        )
        return result


class QuantizedConv1d(_QuantizedConv, nn.Conv1d):
    """`conv1d` with an int8 weight [out, in / groups, k] and a scale per output channel."""


class QuantizedConv2d(_QuantizedConv, nn.Conv2d):
    """`conv2d` with an int8 weight [out, in / groups, kh, kw] and a scale per output channel."""


class QuantizedConv3d(_QuantizedConv, nn.Conv3d):
    """`conv3d` with an int8 weight [out, in / groups, kd, kh, kw], a scale per output channel."""


class _QuantizedConvTranspose(_Int8Weight):
    """Scaled per *input* channel, as nncf has it: stored in int8, computed in float."""

    CONVOLVE: ClassVar[Callable[..., torch.Tensor]]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The transposed convolution of the float layer."""
        own, convolve = cast(Any, self), type(self).CONVOLVE
        sizes = own.stride, own.padding, own.output_padding, own.groups, own.dilation
        return convolve(input, self.float_weight(), own.bias, *sizes)


class QuantizedConvTranspose1d(_QuantizedConvTranspose, nn.ConvTranspose1d):  # type: ignore[misc]
    """`conv_transpose1d` with an int8 weight [in, out / groups, k]."""

    CONVOLVE = staticmethod(F.conv_transpose1d)


class QuantizedConvTranspose2d(_QuantizedConvTranspose, nn.ConvTranspose2d):  # type: ignore[misc]
    """`conv_transpose2d` with an int8 weight [in, out / groups, kh, kw]."""

    CONVOLVE = staticmethod(F.conv_transpose2d)


class QuantizedConvTranspose3d(_QuantizedConvTranspose, nn.ConvTranspose3d):  # type: ignore[misc]
    """`conv_transpose3d` with an int8 weight [in, out / groups, kd, kh, kw]."""

    CONVOLVE = staticmethod(F.conv_transpose3d)


class QuantizedEmbedding(_Int8Weight, nn.Embedding):
    """`embedding` with an int8 table [rows, width] and a scale per row."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The rows that the indices name; only those are turned into floats, never the table."""
        scales = cast(torch.Tensor, self.scale)
        rows, scale = F.embedding(input, self.weight), F.embedding(input, scales[:, None])
        return rows.to(scale.dtype) * scale


#: Kind of a float layer -> the class of its quantized form, which is kind `quantized_<kind>`.
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
for _kind, _module in QUANTIZED.items():  # a quantized layer has the attributes of its float form
    register_layer(f"quantized_{_kind}", replace(LAYERS[_kind], module=_module, int8=True))


def quantized_layer(
    kind: str, layer: nn.Module, weight: torch.Tensor, scale: torch.Tensor
) -> nn.Module:
    """The quantized form of a float layer.

    Args:
        kind: kind of the float layer, a key of `QUANTIZED`.
        layer: the float layer; its bias is shared, its weight is not read.
        weight: s8, in the float weight's shape.
        scale: f32, one per index of the weight's first dimension.

    Raises:
        ValueError: where weight or scale do not have the layer's shape.
    """
    made = build_layer(f"quantized_{kind}", layer_attributes(Op("", kind, layer=layer)))
    for name, value in (("weight", weight), ("scale", scale)):
        if made._buffers[name].shape != value.shape:  # type: ignore[union-attr]
            raise ValueError(f"{name} is {tuple(value.shape)}, not the layer's shape")
        made._buffers[name] = value
    if "bias" in layer._parameters:
        made._parameters["bias"] = layer._parameters["bias"]
    return made
