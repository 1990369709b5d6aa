"""Modules of a layer kind: built from their text, copied, and fitted to their tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from compressc.errors import CompresscError
from compressc.ir.layers import LAYERS
from compressc.ir.number_forms import NumberForm
from compressc.ir.sharing import copied


def squeeze(value: Any) -> Any:
    """`(3, 3)` as `3`: tuples of one repeated number print as the number."""
    if isinstance(value, tuple | list | torch.Size):
        value = tuple(value)
        return value[0] if value and all(v == value[0] for v in value) else value
    return value


def build_layer(kind: str, attributes: Mapping[str, Any]) -> nn.Module:
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
    except _UNFIT as error:
        raise CompresscError("CC402", f"'{kind}' cannot be built", got=str(error)) from error


#: What torch's modules raise for arguments that make no layer.
_UNFIT = (
    TypeError,
    ValueError,
    RuntimeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
)
#: Layers made so far, on the meta device: a copy costs a tenth of what `__init__` does.
_MADE: dict[str, nn.Module] = {}
_MOST_MADE = 4096
_PLAIN = (int, float, str, bool, tuple, type(None), NumberForm)


def copy_layer(layer: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """`copy.deepcopy` of a leaf module without its cost; weights are shared until written.

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
            state[name] = {key: _copy_tensor(tensor, memo) for key, tensor in value.items()}
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


def _copy_tensor(tensor: torch.Tensor | None, memo: dict[int, Any]) -> torch.Tensor | None:
    if tensor is not None and type(tensor) in (torch.Tensor, nn.Parameter):
        return copied(tensor, memo)
    return copy.deepcopy(tensor, memo)  # None, or a class with a copy of its own


def fit_attributes(kind: str, layer: Any) -> None:
    """Make a layer's size attributes say what its tensors are, after these were cut.

    Args:
        kind: its kind.
        layer: edited in place; its number of groups is right already.
    """
    known = LAYERS[kind]
    if known.role == "recurrent":
        layer.input_size, layer.hidden_size = (
            getattr(layer, f"{name}_l0").shape[1] for name in ("weight_ih", "weight_hh")
        )
        return
    tensor = getattr(layer, "weight", None)
    if tensor is None:  # a batch norm without gains has its statistics
        tensor = getattr(layer, "running_mean", None)
    if tensor is None:
        return
    sizes = list(tensor.shape)
    if known.role in ("convolution", "transposed_convolution"):
        sizes[1] *= layer.groups
    for text, size in zip(known.weight, sizes, strict=False):
        value = tuple(sizes) if text == "shape" else size
        setattr(layer, known.attributes[text], value)


def layer_tensors(layer: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Parameters and buffers of a leaf module in a stable order, tied ones repeated."""
    parameters = layer.named_parameters(remove_duplicate=False)
    return [*parameters, *layer.named_buffers(remove_duplicate=False)]
