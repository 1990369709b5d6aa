"""Trainable twins of number forms: floats that are rounded whenever they are used.

A twin computes what the stored integers compute, and has gradients: rounding hands them on as they
are (Bengio, Leonard and Courville 2013, the straight-through estimator), and what lies outside the
range gets none. The scale learns, too, by the gradient that follows from this (Esser et al. 2020,
"Learned Step Size Quantization", equation 3). What is learned of a scale is the logarithm of a
factor on it, so that a step of the optimizer changes each scale by a share of itself.

Zero points stay as they are: they are integers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from compressc.ir.number_forms import NumberForm, pack, unpack

#: What a layer's twin is called in it.
TWIN = "twin"


def rounded_through(x: Tensor) -> Tensor:
    """To the nearest integer; the gradient goes through as if nothing had happened."""
    return x + (x.round() - x).detach()


class TrainableValue(nn.Module):
    """A value with one scale: quantize and dequantize, with gradients.

    Args:
        scale: of the integers.
        zero: the integer that stands for zero.
        least, most: of the integers.
    """

    start: Tensor

    def __init__(self, scale: float, zero: int, least: int, most: int) -> None:
        super().__init__()
        self.zero, self.least, self.most = zero, least, most
        self.register_buffer("start", torch.tensor(scale))
        self.log_factor = nn.Parameter(torch.zeros(1))

    @property
    def scale(self) -> Tensor:
        """What it has become, f32[1]."""
        return self.start * self.log_factor.exp()

    def forward(self, x: Tensor) -> Tensor:
        """The value in its integers, as floats."""
        scale = self.scale
        steps = (rounded_through(x / scale) + self.zero).clamp(self.least, self.most)
        return (steps - self.zero) * scale


class TrainableWeight(nn.Module):
    """A stored weight as floats that are rounded whenever they are read.

    Where rounding the float weight to nearest gives the integers that are stored, it starts there;
    where they were chosen otherwise, at what they stand for.

    Args:
        layer: a quantized layer.
        weight: the float weight that was rounded.
        most: the largest integer to use, where it is less than the form's.
    """

    start: Tensor
    zeros: Tensor

    def __init__(self, layer: nn.Module, weight: Tensor, most: int | None = None) -> None:
        super().__init__()
        own: Any = layer
        form: NumberForm = own.weight_form
        shape = own.weight_shape()
        count = own.scale.numel() // len(own.scale)
        row = int(torch.Size(shape[1:]).numel())
        scale = own.scale.detach().reshape(len(own.scale), count)
        integers = unpack(own.weight.flatten(1), form, row).float()
        zeros = torch.zeros_like(scale)
        if form.zero_point:
            zeros = unpack(own.zero_point, form, count).float()
        self.form, self.shape = form, shape
        self.least, self.most = (form.least, form.most) if most is None else (-most, most)
        self.register_buffer("start", scale.clone())
        self.register_buffer("zeros", zeros)
        self.log_factor = nn.Parameter(torch.zeros(scale.numel(), device=scale.device))
        given = weight.detach().to(scale.dtype).flatten(1)
        near = self._integers(given) == integers
        latent = torch.where(near, given, self._floats(integers)).detach()
        self.weight = nn.Parameter(latent.reshape(shape).clone())

    @property
    def scale(self) -> Tensor:
        """What it has become, f32[rows, groups]."""
        return self.start * self.log_factor.exp().reshape(self.start.shape)

    def forward(self) -> Tensor:
        """The weight in its integers, as floats in the float layer's shape."""
        return self._floats(self._integers(self.weight.flatten(1))).reshape(self.shape)

    @torch.no_grad()
    def store(self, layer: nn.Module) -> None:
        """Put the integers and scales into a quantized layer of the same form."""
        own: Any = layer
        stored = pack(self._integers(self.weight.flatten(1)), self.form)
        own._buffers["weight"] = stored.reshape(own.weight.shape)
        own._buffers["scale"] = self.scale.detach().reshape(own.scale.shape).clone()

    def _integers(self, rows: Tensor) -> Tensor:
        grouped = rows.reshape(*self.scale.shape, -1) / self.scale.unsqueeze(-1)
        steps = rounded_through(grouped) + self.zeros.unsqueeze(-1)
        return steps.clamp(self.least, self.most).flatten(1)

    def _floats(self, integers: Tensor) -> Tensor:
        grouped = integers.reshape(*self.scale.shape, -1)
        return ((grouped - self.zeros.unsqueeze(-1)) * self.scale.unsqueeze(-1)).flatten(1)
