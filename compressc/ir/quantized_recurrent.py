"""Recurrent layers whose matrices are stored as int8, with a scale per row of each.

A row is a gate of one index of the state, so each gate of each direction has scales of its own. The
forward pass turns the matrices back into floats, and rounds what the layer is given where its form
says so; states stay floats here. ONNX Runtime's kernel rounds those, too, at each step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from compressc.ir.layer_building import build_layer
from compressc.ir.number_forms import INT8_PER_CHANNEL, NumberForm, round_dynamically
from compressc.ir.ops import Op, layer_attributes
from compressc.ir.quantized import check_forms, float_rows, quantized_kind, register_quantized
from compressc.ir.recurrent import Gru, Lstm, Recurrent, Rnn


class _StoredMatrices:
    """Mixed into a recurrent layer: its matrices become buffers of integers beside their scales.

    Attributes:
        weight_form: int8 with a scale per row.
        input_form: how values are rounded in front of the first layer; None: they stay floats.
    """

    def __init__(
        self,
        *args: Any,
        weight_form: NumberForm = INT8_PER_CHANNEL,
        input_form: NumberForm | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        check_forms(weight_form, input_form)
        if weight_form != INT8_PER_CHANNEL:
            raise ValueError(f"a recurrent layer stores {INT8_PER_CHANNEL}, not {weight_form}")
        self.weight_form, self.input_form = weight_form, input_form
        own = cast(Recurrent, self)
        for name in [name for name in own.names() if is_matrix(name)]:
            blank = cast(torch.Tensor, own._parameters.pop(name))
            own.register_buffer(name, torch.zeros_like(blank, dtype=torch.int8))
            own.register_buffer(f"{name}_scale", torch.ones(len(blank), device=blank.device))

    def stored_shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensors that the form is about -> their shapes, which are those of the float layer."""
        own = cast(Recurrent, self)
        return {name: tuple(getattr(own, name).shape) for name in own.names() if is_matrix(name)}

    def weights(self) -> list[torch.Tensor]:
        """What it computes with."""
        own = cast(Recurrent, self)
        return [
            float_rows(getattr(own, name), getattr(own, f"{name}_scale"))
            if is_matrix(name)
            else getattr(own, name)
            for name in own.names()
        ]

    def given(self, input: torch.Tensor) -> torch.Tensor:
        """Its input as it computes with it."""
        return input if self.input_form is None else round_dynamically(input, self.input_form)


def is_matrix(name: str) -> bool:
    """Whether a tensor of a recurrent layer is stored as integers, by its name."""
    return name.startswith("weight_")


class QuantizedLstm(_StoredMatrices, Lstm):
    """`lstm` with stored matrices s8[4 * hidden, in] and s8[4 * hidden, hidden]."""


class QuantizedGru(_StoredMatrices, Gru):
    """`gru` with stored matrices s8[3 * hidden, in] and s8[3 * hidden, hidden]."""


class QuantizedRnn(_StoredMatrices, Rnn):
    """`rnn` with stored matrices s8[hidden, in] and s8[hidden, hidden]."""


#: Kind of a recurrent layer -> the class of its quantized form.
QUANTIZED_RECURRENT: dict[str, type[nn.Module]] = {
    "lstm": QuantizedLstm,
    "gru": QuantizedGru,
    "rnn": QuantizedRnn,
}
for _kind, _module in QUANTIZED_RECURRENT.items():
    register_quantized(_kind, _module)


def quantized_recurrent(
    kind: str,
    layer: nn.Module,
    matrices: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    input: NumberForm | None = None,
) -> nn.Module:
    """The quantized form of a recurrent layer; biases are shared.

    Args:
        kind: kind of the float layer, a key of `QUANTIZED_RECURRENT`.
        layer: the float layer.
        matrices: name -> integers s8[rows, count] and scales f32[rows].
        input: how the layer rounds what it is given; None: not at all.

    Raises:
        ValueError: where one of them does not have the shape that the layer gives it.
    """
    attributes = layer_attributes(Op("", kind, layer=layer))
    made = build_layer(
        quantized_kind(kind), attributes | ({} if input is None else {"input": input})
    )
    for name, (values, scale) in matrices.items():
        if values.shape != made._buffers[name].shape or len(scale) != len(values):  # type: ignore[union-attr]
            raise ValueError(f"{name} is {tuple(values.shape)}, not the layer's shape")
        made._buffers[name], made._buffers[f"{name}_scale"] = values, scale
    for name in made._parameters:
        made._parameters[name] = layer._parameters[name]
    return made
