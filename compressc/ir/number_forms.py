"""Number forms: how the numbers of a tensor are stored, as data.

A form prints behind a type, `i4[64,576]{axis=0, group=32}`, or alone, `i4{axis=0, group=32}`. What
is stored is `q`, and stands for `(q - zero_point) * scale`. Forms of less than 8 bits are packed:
two numbers in a byte along the last dimension, the first in the low half, as ONNX, OpenVINO and
ONNX Runtime have it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

#: Names without numbers in torch: no tensor has them, packed ones are of bytes.
INT4: torch.dtype = torch.int4  # type: ignore[attr-defined]
UINT4: torch.dtype = torch.uint4  # type: ignore[attr-defined]
#: Integers that numbers are stored as.
ELEMENTS: dict[str, torch.dtype] = {
    "i4": INT4,
    "u4": UINT4,
    "i8": torch.int8,
    "u8": torch.uint8,
}
_NAMES = {dtype: name for name, dtype in ELEMENTS.items()}
_BITS = {INT4: 4, UINT4: 4}
_BYTE = 8


def bits_of(dtype: torch.dtype) -> int:
    """Bits that one number of a dtype takes where it is stored."""
    return _BITS.get(dtype, dtype.itemsize * _BYTE)


@dataclass(frozen=True, slots=True)
class NumberForm:
    """How real numbers are stored as integers.

    Attributes:
        dtype: of the integers, one of `ELEMENTS`.
        axis: the dimension each index of which has a scale; None: one scale in all.
        group: so many numbers of an index share a scale, counted along the other dimensions in
            order; None: all of them do. It divides their number.
        zero_point: whether there is a zero point beside each scale, else zero is stored as 0.
        dynamic: whether scale and zero point come from the numbers themselves when the model runs.
    """

    dtype: torch.dtype
    axis: int | None = None
    group: int | None = None
    zero_point: bool = False
    dynamic: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in _NAMES:
            raise ValueError(f"a number form stores {', '.join(ELEMENTS)}, not {self.dtype}")
        if self.group is not None and (self.group < 1 or self.axis is None):
            raise ValueError("a group has at least one number, and its form an axis")

    def __str__(self) -> str:
        """`i4{axis=0, group=32}`; `parse_form` reads it back."""
        return f"{_NAMES[self.dtype]}{self.scaling}"

    @property
    def scaling(self) -> str:
        """What stands behind the shape of a type: `{axis=0, group=32}`."""
        values = ((name, getattr(self, name)) for name in _SCALING)
        told = [
            f"{name}={str(v).lower()}" for name, v in values if v is not None and v is not False
        ]
        return "{" + ", ".join(told) + "}"

    @property
    def name(self) -> str:
        """The integers alone: `i4`."""
        return _NAMES[self.dtype]

    @property
    def bits(self) -> int:
        """Of one number."""
        return bits_of(self.dtype)

    @property
    def packed(self) -> bool:
        """Whether several numbers share a byte."""
        return self.bits < _BYTE

    @property
    def signed(self) -> bool:
        """Whether the integers may be negative."""
        return self.dtype.is_signed

    @property
    def most(self) -> int:
        """The largest integer."""
        return int(2 ** (self.bits - self.signed) - 1)

    @property
    def least(self) -> int:
        """The smallest; without a zero point the range is symmetric, for `-scale * 128` has no
        positive partner."""
        if not self.signed:
            return 0
        return -self.most - self.zero_point

    @property
    def stored_dtype(self) -> torch.dtype:
        """Of the tensor that holds the integers."""
        return torch.uint8 if self.packed else self.dtype

    def groups(self, shape: Sequence[int]) -> int:
        """Scales that each index of the axis has, in a tensor of that shape.

        Raises:
            ValueError: where the group does not divide the numbers of an index.
        """
        count = math.prod(shape) // max(1, shape[self.axis or 0])
        if self.group is not None and count % self.group:
            raise ValueError(f"groups of {self.group} do not divide {count} numbers")
        return 1 if self.group is None else count // self.group

    def scale_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Of the scales of a tensor of that shape."""
        if self.axis is None:
            return ()
        rows = shape[self.axis]
        return (rows,) if self.group is None else (rows, self.groups(shape))

    def stored_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Of the tensor that holds the integers; a packed one is a matrix, a row for each index of
        its first dimension."""
        if not self.packed:
            return tuple(shape)
        count = math.prod(shape[1:])
        if len(shape) == 1:
            return (_packed_length(shape[0], self.bits),)
        return (shape[0], _packed_length(count, self.bits))


_SCALING = tuple(item.name for item in fields(NumberForm))[1:]
#: A weight in int8 with a scale for each output: what integer kernels take.
INT8_PER_CHANNEL = NumberForm(torch.int8, axis=0)


def parse_form(name: str, scaling: Mapping[str, Any]) -> NumberForm:
    """A form of its parts.

    Raises:
        ValueError: where they make none.
    """
    if name not in ELEMENTS or not set(scaling) <= set(_SCALING):
        raise ValueError(
            f"a number form is written like i4{{axis=0, group=32}}: {', '.join(ELEMENTS)}"
        )
    for key, value in scaling.items():
        if type(value) is not (bool if key in ("zero_point", "dynamic") else int):
            raise ValueError(f"'{key}' of a number form cannot be {value}")
    return NumberForm(ELEMENTS[name], **scaling)


def pack(values: torch.Tensor, form: NumberForm) -> torch.Tensor:
    """Integers [..., n] as they are stored: u8[..., n / 2] where two fit a byte.

    The last byte of a row of odd length has zeros in its high half.
    """
    if not form.packed:
        return values.to(form.dtype)
    nibbles = (values.to(torch.int16) & 15).to(torch.uint8)
    if nibbles.shape[-1] % 2:
        nibbles = torch.nn.functional.pad(nibbles, (0, 1))
    return nibbles[..., 0::2] | (nibbles[..., 1::2] << 4)


def unpack(stored: torch.Tensor, form: NumberForm, count: int) -> torch.Tensor:
    """The integers [..., count] of what `pack` made; of a packed one as f32, which holds them.

    In floats, because every runtime has these operations, and few shift bytes.
    """
    if not form.packed:
        return stored
    pairs = stored.to(torch.float32)
    high = torch.floor(pairs * 0.0625)
    values = torch.stack((pairs - high * 16, high), -1).flatten(-2)
    if values.shape[-1] != count:
        values = values[..., :count]
    return values - torch.floor((values + 8) * 0.0625) * 16 if form.signed else values


def dequantize(
    stored: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    form: NumberForm,
    count: int,
) -> torch.Tensor:
    """Rows of stored integers as floats: `(q - zero_point) * scale`.

    Args:
        stored: [..., numbers of a row as they are stored], a row for each index of the form's axis.
        scale: [...] or [..., groups], as the form has it.
        zero_point: [..., groups] as the form's integers are stored.
        form: of these.
        count: numbers of a row.

    Returns:
        [..., count] in the dtype of `scale`.
    """
    values = unpack(stored, form, count).to(scale.dtype)
    if form.group is None:
        scale = scale.unsqueeze(-1)
    values = values.reshape(*values.shape[:-1], scale.shape[-1], -1)
    if zero_point is not None:
        zeros = unpack(zero_point, form, scale.shape[-1]).to(scale.dtype)
        values = values - zeros.unsqueeze(-1)
    result: torch.Tensor = (values * scale.unsqueeze(-1)).flatten(-2)
    return result


def round_dynamically(x: torch.Tensor, form: NumberForm) -> torch.Tensor:
    """Floats as a form without an axis holds them, whose range is that of `x` and zero.

    ONNX, DynamicQuantizeLinear: scale = (high - low) / 255, halves go to even.
    """
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = (high - low) / (form.most - form.least)
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.round(form.least - low / scale)
    q = torch.clamp(torch.round(x / scale) + zero, form.least, form.most)
    return (q - zero) * scale


def _packed_length(count: int, bits: int) -> int:
    return -(-count * bits // _BYTE)
