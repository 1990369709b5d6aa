"""Ops and the table of layer kinds.

A layer op holds a real `torch.nn` leaf module; every other op is an ATen call. `LAYERS` says, for
each layer kind, which module attributes are printed, and is the one place that knows how to build
the module again from its text.
"""

from __future__ import annotations

import copy
import importlib
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from compressc.errors import CompresscError
from compressc.ir.types import ValueType


@dataclass(frozen=True, slots=True)
class Ref:
    """A use of another op's value; prints as `%name`."""

    name: str


#: Ref, int, float, bool, str, None, dtype, device, layout, memory format, size expression,
#: or a tuple of these.
Arg = Any


@dataclass(eq=False, slots=True)
class Op:
    """One operation of the graph.

    Attributes:
        name: unique and stable; erasing an op never renumbers another.
        kind: `conv2d` (a layer), `aten.add.Tensor` (an ATen overload), `parameter`, `constant`,
            `getitem` or `input`.
        args: operands and constants in schema order.
        kwargs: keyword constants of an ATen call.
        layer: the leaf module of a layer op, else None.
        type: dtype and shape of the result.
        lineage: the teacher ops this op descends from, the last one being the op whose value it
            stands for.
        kept: for each pruned dimension of the result, the teacher indices that are left.
    """

    name: str
    kind: str
    args: tuple[Arg, ...] = ()
    kwargs: dict[str, Arg] = field(default_factory=dict)
    layer: nn.Module | None = None
    type: ValueType | None = None
    lineage: tuple[str, ...] = ()
    kept: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the values this op reads, in operand order; one read twice is there twice."""
        return tuple(ref.name for ref in refs_of((self.args, self.kwargs)))


def refs_of(arg: Arg) -> Iterator[Ref]:
    """All references inside a nested argument, in order."""
    if isinstance(arg, Ref):
        yield arg
    elif isinstance(arg, tuple | list):
        for item in arg:
            yield from refs_of(item)
    elif isinstance(arg, Mapping):
        for item in arg.values():
            yield from refs_of(item)


def map_arg(arg: Arg, change: Callable[[Arg], Arg]) -> Arg:
    """`arg` with `change` applied to each leaf; tuples stay tuples and mappings dicts."""
    if isinstance(arg, tuple | list):
        return tuple(map_arg(item, change) for item in arg)
    if isinstance(arg, Mapping):
        return {key: map_arg(item, change) for key, item in arg.items()}
    return change(arg)


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


@dataclass(frozen=True)
class LayerKind:
    """How one kind of layer prints and is built again.

    Attributes:
        module: the `torch.nn` class.
        attributes: text name -> module attribute; these and no others define the layer's shape.
        defaults: values that are not printed.
    """

    module: Callable[..., nn.Module]
    attributes: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)


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
_CONV_T = {**_CONV, "output_padding": "output_padding"}
_CONV_T_DEFAULTS = {**_CONV_DEFAULTS, "output_padding": 0}
_BATCH_NORM = {"features": "num_features", "eps": "eps", "momentum": "momentum", "affine": "affine"}
_BATCH_NORM_DEFAULTS = {"eps": 1e-05, "momentum": 0.1, "affine": True}
_POOL = {"kernel": "kernel_size", "stride": "stride", "padding": "padding", "ceil": "ceil_mode"}

#: Every layer kind of the IR. A plugin may add its own with `register_layer`.
LAYERS: dict[str, LayerKind] = {
    "linear": LayerKind(
        nn.Linear, {"in": "in_features", "out": "out_features", "bias": "bias"}, {"bias": True}
    ),
    **{f"conv{n}d": LayerKind(getattr(nn, f"Conv{n}d"), _CONV, _CONV_DEFAULTS) for n in (1, 2, 3)},
    **{
        f"conv_transpose{n}d": LayerKind(
            getattr(nn, f"ConvTranspose{n}d"), _CONV_T, _CONV_T_DEFAULTS
        )
        for n in (1, 2, 3)
    },
    **{
        f"batch_norm{n}d": LayerKind(
            getattr(nn, f"BatchNorm{n}d"), _BATCH_NORM, _BATCH_NORM_DEFAULTS
        )
        for n in (1, 2, 3)
    },
    "layer_norm": LayerKind(
        nn.LayerNorm,
        {"shape": "normalized_shape", "eps": "eps", "affine": "elementwise_affine", "bias": "bias"},
        {"eps": 1e-05, "affine": True, "bias": True},
    ),
    "rms_norm": LayerKind(
        nn.RMSNorm,
        {"shape": "normalized_shape", "eps": "eps", "affine": "elementwise_affine"},
        {"affine": True},
    ),
    "group_norm": LayerKind(
        nn.GroupNorm,
        {"groups": "num_groups", "channels": "num_channels", "eps": "eps", "affine": "affine"},
        {"eps": 1e-05, "affine": True},
    ),
    "embedding": LayerKind(
        nn.Embedding,
        {"rows": "num_embeddings", "width": "embedding_dim", "padding_idx": "padding_idx"},
        {"padding_idx": None},
    ),
    "dropout": LayerKind(nn.Dropout, {"p": "p"}),
    "relu": LayerKind(nn.ReLU),
    "relu6": LayerKind(nn.ReLU6),
    "gelu": LayerKind(nn.GELU, {"approximate": "approximate"}, {"approximate": "none"}),
    "silu": LayerKind(nn.SiLU),
    "sigmoid": LayerKind(nn.Sigmoid),
    "tanh": LayerKind(nn.Tanh),
    "hardswish": LayerKind(nn.Hardswish),
    "hardsigmoid": LayerKind(nn.Hardsigmoid),
    "leaky_relu": LayerKind(nn.LeakyReLU, {"slope": "negative_slope"}, {"slope": 0.01}),
    "elu": LayerKind(nn.ELU, {"alpha": "alpha"}, {"alpha": 1.0}),
    "softplus": LayerKind(nn.Softplus),
    "mish": LayerKind(nn.Mish),
    "max_pool2d": LayerKind(
        nn.MaxPool2d,
        {**_POOL, "dilation": "dilation"},
        {"padding": 0, "dilation": 1, "ceil": False},
    ),
    "avg_pool2d": LayerKind(
        nn.AvgPool2d,
        {**_POOL, "count_pad": "count_include_pad", "divisor": "divisor_override"},
        {"padding": 0, "ceil": False, "count_pad": True, "divisor": None},
    ),
    "adaptive_avg_pool2d": LayerKind(nn.AdaptiveAvgPool2d, {"size": "output_size"}),
    # leaves that hold one tensor; their text is the type and the reference alone
    "parameter": LayerKind(Tensor),
    "constant": LayerKind(Tensor),
}


def register_layer(kind: str, layer: LayerKind) -> None:
    """Add a layer kind, so that graphs which hold it print, parse and load.

    Raises:
        CompresscError: CC106 where another kind of that name exists.
    """
    if LAYERS.setdefault(kind, layer) != layer:
        raise CompresscError("CC106", f"layer kind '{kind}' is registered twice")


def layer_attributes(op: Op) -> dict[str, Arg]:
    """The attributes of a layer op that differ from the defaults, as they print."""
    kind = LAYERS[op.kind]
    found = {}
    for text, attribute in kind.attributes.items():
        value = getattr(op.layer, attribute)
        if text == "bias":
            value = value is not None
        elif text != "shape" or len(value) == 1:  # layer_norm over (4, 4) is not over 4
            value = squeeze(value)
        if text not in kind.defaults or value != kind.defaults[text]:
            found[text] = value
    return found


def squeeze(value: Any) -> Any:
    """`(3, 3)` as `3`: tuples of one repeated number print as the number."""
    if isinstance(value, tuple | list | torch.Size):
        value = tuple(value)
        return value[0] if value and all(v == value[0] for v in value) else value
    return value


def build_layer(kind: str, attributes: Mapping[str, Arg]) -> nn.Module:
    """A module of that kind with uninitialized weights on the meta device, in eval mode.

    Raises:
        CompresscError: CC402 where the kind or an attribute is unknown or does not fit.
    """
    if kind not in LAYERS:
        raise CompresscError("CC402", f"unknown layer kind '{kind}'", hint=", ".join(LAYERS))
    layer = LAYERS[kind]
    for name in attributes:
        if name not in layer.attributes:
            raise CompresscError(
                "CC402", f"'{kind}' has no attribute '{name}'", hint=", ".join(layer.attributes)
            )
    # by text: equal keys must print alike, and 1, 1.0 and True do not
    key = f"{kind} {dict(attributes)}"
    values = {layer.attributes[name]: value for name, value in attributes.items()}
    try:
        if key not in _MADE:
            if len(_MADE) >= _MOST_MADE:
                _MADE.clear()
            with torch.device("meta"):
                _MADE[key] = layer.module(**values).eval()
        return copy_layer(_MADE[key], {})
    except (TypeError, ValueError, RuntimeError, ArithmeticError, AssertionError) as error:
        raise CompresscError("CC402", f"'{kind}' cannot be built", got=str(error)) from error


#: Layers made so far, on the meta device: a copy costs a tenth of what `__init__` does.
_MADE: dict[str, nn.Module] = {}
_MOST_MADE = 4096
_PLAIN = (int, float, str, bool, tuple, type(None))


def copy_layer(layer: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """`copy.deepcopy` of a leaf module without its cost.

    Args:
        layer: the module.
        memo: `id` -> copy, of the modules and tensors copied so far; keeps ties.
    """
    if id(layer) in memo:
        found: nn.Module = memo[id(layer)]
        return found
    state: dict[str, Any] = {}
    for name, value in vars(layer).items():
        if name in ("_parameters", "_buffers"):
            state[name] = {key: copy.deepcopy(tensor, memo) for key, tensor in value.items()}
        elif type(value) in _PLAIN:
            state[name] = value
        elif isinstance(value, dict | set | list) and not value:
            state[name] = type(value)()
        elif isinstance(value, set | list) and all(type(item) in _PLAIN for item in value):
            state[name] = copy.copy(value)
        else:  # hooks, submodules, what only a stranger's layer has
            return copy.deepcopy(layer, memo)
    twin = type(layer).__new__(type(layer))
    twin.__dict__.update(state)
    memo[id(layer)] = twin
    return twin


#: Operator libraries whose ops the IR may call.
NAMESPACES = ("aten", "prims", "quantized_decomposed", "compressc")


def overload(kind: str) -> Callable[..., Any]:
    """The callable of an ATen (or other library) op.

    Raises:
        CompresscError: CC402 for a name that no operator library has.
    """
    if kind == "getitem":
        return operator.getitem
    namespace, _, rest = kind.partition(".")
    packet, _, name = rest.partition(".")
    if namespace == "quantized_decomposed":
        importlib.import_module("torch.ao.quantization.fx._decomposed")  # registers the library
    if namespace in NAMESPACES:
        library = getattr(torch.ops, namespace)
        found = getattr(getattr(library, packet, None), name or "default", None)
        if isinstance(found, torch._ops.OpOverload) and not _touches_files(found):
            return found
    raise CompresscError("CC402", f"unknown operation '{kind}'", hint=", ".join(NAMESPACES))


def _touches_files(target: torch._ops.OpOverload) -> bool:
    """`aten.save` and `aten.from_file`: a graph from a stranger's file must not reach the disk."""
    return any(argument.name == "filename" for argument in target._schema.arguments)


def kind_of(target: torch._ops.OpOverload) -> str:
    """`aten.add.Tensor`, or `aten.linear` where the overload is the default one."""
    name = str(target)
    return name.removesuffix(".default")


def layer_tensors(layer: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Parameters and buffers of a leaf module in a stable order, tied ones repeated."""
    parameters = layer.named_parameters(remove_duplicate=False)
    return [*parameters, *layer.named_buffers(remove_duplicate=False)]
