"""Layer kinds: `LAYERS` says of each how it prints, how it is built again, and what it does.

All that passes and analyses know of a layer kind is here. Their own tables are by role, not by
kind: one more activation, norm or pooling is one more row of `LAYERS`, and a role of its own is
one more row in each of those tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import nn

from compressc.errors import CompresscError
from compressc.ir.number_forms import INT8_PER_CHANNEL, NumberForm
from compressc.ir.recurrent import Gru, Lstm, Rnn


class Tensor(nn.Module):
    """The layer of a `parameter` or `constant` op: a tensor that no leaf module owns."""

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        if isinstance(value, nn.Parameter):
            self.value: torch.Tensor = value
        else:
            self.register_buffer("value", value)

    def forward(self) -> torch.Tensor:
        """The tensor itself."""
        return self.value


#: What a layer does: products with a weight, summed over all inputs (`linear`) or over those under
#: a window; looking rows up; statistics over the batch, the last dimensions or groups of channels;
#: each element for itself; nothing but for training; a mean or the largest under a window; cells
#: along a sequence; holding one tensor.
Role = Literal[
    "linear",
    "convolution",
    "transposed_convolution",
    "embedding",
    "batch_norm",
    "layer_norm",
    "group_norm",
    "activation",
    "dropout",
    "average_pool",
    "max_pool",
    "recurrent",
    "tensor",
]
ROLES: tuple[Role, ...] = get_args(Role)
#: Multiply what they read by a weight and sum: all that costs multiply-accumulates.
PRODUCTS: frozenset[Role] = frozenset({"linear", "convolution", "transposed_convolution"})
#: Divide what they read by a statistic of it.
NORMS: frozenset[Role] = frozenset({"batch_norm", "layer_norm", "group_norm"})


@dataclass(frozen=True)
class LayerKind:
    """What one kind of layer is.

    Attributes:
        module: the `torch.nn` class.
        attributes: text name -> module attribute; these and no others define the layer's shape.
        defaults: values that are not printed.
        role: what it does; None where nobody but its module knows, and then it is left alone.
        weight: what each dimension of its weight is, by text name (`out`, `in`). Of a grouped
            convolution the second is that of one group; a norm over several dimensions has them all
            in its `shape`.
        integers: whether it takes integers and booleans, too.
        form: how the numbers of its weight are stored where no attribute says otherwise; None: as
            floats.
    """

    module: Callable[..., nn.Module]
    attributes: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    role: Role | None = None
    weight: tuple[str, ...] = ()
    integers: bool = False
    form: NumberForm | None = None

    @property
    def int8(self) -> bool:
        """Whether its weight is stored as int8 where no attribute says otherwise."""
        return self.form == INT8_PER_CHANNEL


_CONV = {
    "in": "in_channels",
    "out": "out_channels",
    "kernel": "kernel_size",
    "stride": "stride",
    "padding": "padding",
    "dilation": "dilation",
    "groups": "groups",
    "bias": "bias",
}
_CONV_DEFAULTS = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "bias": True}
_BATCH_NORM = {"features": "num_features", "eps": "eps", "momentum": "momentum", "affine": "affine"}
_BATCH_NORM_DEFAULTS = {"eps": 1e-05, "momentum": 0.1, "affine": True}
_POOL = {"kernel": "kernel_size", "stride": "stride", "padding": "padding", "ceil": "ceil_mode"}


def _convolution(dims: int) -> LayerKind:
    module = getattr(nn, f"Conv{dims}d")
    return LayerKind(module, _CONV, _CONV_DEFAULTS, "convolution", ("out", "in"))


def _transposed(dims: int) -> LayerKind:
    return LayerKind(
        getattr(nn, f"ConvTranspose{dims}d"),
        {**_CONV, "output_padding": "output_padding"},
        {**_CONV_DEFAULTS, "output_padding": 0},
        "transposed_convolution",
        ("in", "out"),
    )


def _batch_norm(dims: int) -> LayerKind:
    module = getattr(nn, f"BatchNorm{dims}d")
    return LayerKind(module, _BATCH_NORM, _BATCH_NORM_DEFAULTS, "batch_norm", ("features",))


#: Torch's `bias` says whether there are any, of every part; a tensor called so is printed so.
_RECURRENT = {
    "in": "input_size",
    "hidden": "hidden_size",
    "layers": "num_layers",
    "biases": "bias",
    "batch_first": "batch_first",
    "dropout": "dropout",
    "bidirectional": "bidirectional",
}
_RECURRENT_DEFAULTS = {
    "layers": 1,
    "biases": True,
    "batch_first": False,
    "dropout": 0.0,
    "bidirectional": False,
}


def _activation(
    module: type[nn.Module],
    attributes: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
    *,
    integers: bool = False,
) -> LayerKind:
    return LayerKind(module, attributes or {}, defaults or {}, "activation", integers=integers)


#: Every layer kind of the IR. A plugin may add its own with `register_layer`.
LAYERS: dict[str, LayerKind] = {
    "linear": LayerKind(
        nn.Linear,
        {"in": "in_features", "out": "out_features", "bias": "bias"},
        {"bias": True},
        "linear",
        ("out", "in"),
    ),
    **{f"conv{n}d": _convolution(n) for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _transposed(n) for n in (1, 2, 3)},
    **{f"batch_norm{n}d": _batch_norm(n) for n in (1, 2, 3)},
    "layer_norm": LayerKind(
        nn.LayerNorm,
        {"shape": "normalized_shape", "eps": "eps", "affine": "elementwise_affine", "bias": "bias"},
        {"eps": 1e-05, "affine": True, "bias": True},
        "layer_norm",
        ("shape",),
    ),
    "rms_norm": LayerKind(
        nn.RMSNorm,
        {"shape": "normalized_shape", "eps": "eps", "affine": "elementwise_affine"},
        {"affine": True},
        "layer_norm",
        ("shape",),
    ),
    "group_norm": LayerKind(
        nn.GroupNorm,
        {"groups": "num_groups", "channels": "num_channels", "eps": "eps", "affine": "affine"},
        {"eps": 1e-05, "affine": True},
        "group_norm",
        ("channels",),
    ),
    "embedding": LayerKind(
        nn.Embedding,
        {"rows": "num_embeddings", "width": "embedding_dim", "padding_idx": "padding_idx"},
        {"padding_idx": None},
        "embedding",
        ("rows", "width"),
    ),
    "dropout": LayerKind(nn.Dropout, {"p": "p"}, role="dropout", integers=True),
    "relu": _activation(nn.ReLU, integers=True),
    "relu6": _activation(nn.ReLU6, integers=True),
    "gelu": _activation(nn.GELU, {"approximate": "approximate"}, {"approximate": "none"}),
    "silu": _activation(nn.SiLU),
    "sigmoid": _activation(nn.Sigmoid, integers=True),
    "tanh": _activation(nn.Tanh, integers=True),
    "hardswish": _activation(nn.Hardswish),
    "hardsigmoid": _activation(nn.Hardsigmoid),
    "leaky_relu": _activation(nn.LeakyReLU, {"slope": "negative_slope"}, {"slope": 0.01}),
    "elu": _activation(nn.ELU, {"alpha": "alpha"}, {"alpha": 1.0}),
    "softplus": _activation(nn.Softplus),
    "mish": _activation(nn.Mish),
    "max_pool2d": LayerKind(
        nn.MaxPool2d,
        {**_POOL, "dilation": "dilation"},
        {"padding": 0, "dilation": 1, "ceil": False},
        "max_pool",
        integers=True,
    ),
    "avg_pool2d": LayerKind(
        nn.AvgPool2d,
        {**_POOL, "count_pad": "count_include_pad", "divisor": "divisor_override"},
        {"padding": 0, "ceil": False, "count_pad": True, "divisor": None},
        "average_pool",
    ),
    "adaptive_avg_pool2d": LayerKind(
        nn.AdaptiveAvgPool2d, {"size": "output_size"}, role="average_pool"
    ),
    "lstm": LayerKind(Lstm, _RECURRENT, _RECURRENT_DEFAULTS, "recurrent"),
    "gru": LayerKind(Gru, _RECURRENT, _RECURRENT_DEFAULTS, "recurrent"),
    "rnn": LayerKind(
        Rnn,
        {**_RECURRENT, "nonlinearity": "nonlinearity"},
        {**_RECURRENT_DEFAULTS, "nonlinearity": "tanh"},
        "recurrent",
    ),
    # leaves that hold one tensor; their text is the type and the reference alone
    "parameter": LayerKind(Tensor, role="tensor"),
    "constant": LayerKind(Tensor, role="tensor"),
}


def register_layer(kind: str, layer: LayerKind) -> None:
    """Add a layer kind, so that graphs which hold it print, parse and load.

    Raises:
        CompresscError: CC106 where another kind of that name exists.
    """
    if LAYERS.setdefault(kind, layer) != layer:
        raise CompresscError("CC106", f"layer kind '{kind}' is registered twice")
