"""ATen -> layer ops: an exported program becomes a `Graph`, by a table.

Each rule of `RULES` says which layer kind an ATen call stands for, where its tensors go and which
attributes it has. A call whose weight is computed, not held, stays an ATen call. Raised and
exported program compute the same numbers, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from compressc.ir import LAYERS, layer_tensors
from compressc.ir.layer_building import build_layer

#: The arguments of one call by schema name; tensors that the program holds are tensors here.
Bound = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """One row of the table.

    Attributes:
        kind: the layer kind, or a function of the call that names it.
        attributes: the call's arguments -> attributes of the layer (as they print).
        operands: schema names of the values the layer reads.
        tensors: layer slot -> schema name of the held tensor that fills it.
        when: a further condition on the call.
    """

    kind: str | Callable[[Bound], str]
    attributes: Callable[[Bound], dict[str, Any]] = lambda a: {}
    operands: tuple[str, ...] = ("self",)
    tensors: Mapping[str, str] = field(default_factory=dict)
    when: Callable[[Bound], bool] = lambda a: True


def _rank(a: Bound) -> int:
    """Rank of the layer's input; the importer leaves the rank of operand `x` under `#x`."""
    return int(a["#input"])


def _linear(a: Bound) -> dict[str, Any]:
    out, in_ = a["weight"].shape
    return {"in": in_, "out": out, "bias": a["bias"] is not None}


def _product(a: Bound) -> dict[str, Any]:
    """`x @ w`, whose weight as a linear layer wants it is under `#weight`."""
    return _linear({"weight": a["#weight"], "bias": None})


def _is_affine(a: Bound) -> bool:
    """`addmm(bias, x, w)` as `F.linear` itself calls it."""
    bias = a["self"]
    return (
        "#weight" in a
        and isinstance(bias, torch.Tensor)
        and bias.shape == a["#weight"].shape[:1]
        and (a["beta"], a["alpha"]) == (1, 1)
    )


def _conv(a: Bound) -> dict[str, Any]:
    weight, groups = a["weight"], a["groups"]
    padding = a["padding"]
    return {
        "in": weight.shape[1] * groups,
        "out": weight.shape[0],
        "kernel": tuple(weight.shape[2:]),
        "stride": _per_axis(a["stride"], weight),
        "padding": padding if isinstance(padding, str) else _per_axis(padding, weight),
        "dilation": _per_axis(a["dilation"], weight),
        "groups": groups,
        "bias": a["bias"] is not None,
    }


def _conv_transpose(a: Bound) -> dict[str, Any]:
    found = _conv(a)
    weight = a["weight"]
    found |= {"in": weight.shape[0], "out": weight.shape[1] * a["groups"]}
    return found | {"output_padding": _per_axis(a["output_padding"], weight)}


def _per_axis(value: Any, weight: torch.Tensor) -> tuple[int, ...]:
    """One number per spatial axis, however the call was written."""
    axes = weight.dim() - 2
    value = tuple(value) if isinstance(value, list | tuple) else (value,)
    return tuple(value * axes if len(value) == 1 else value)


def _batch_norm(a: Bound) -> dict[str, Any]:
    return {
        "features": len(a["running_mean"]),
        "eps": a["eps"],
        "momentum": a["momentum"],
        "affine": a["weight"] is not None,
    }


def _layer_norm(a: Bound) -> dict[str, Any]:
    affine = a["weight"] is not None
    shape = tuple(a["normalized_shape"])
    bias = {"bias": a["bias"] is not None} if affine else {}
    return {"shape": shape, "eps": a["eps"], "affine": affine, **bias}


def _max_pool2d(a: Bound) -> dict[str, Any]:
    names = {"kernel": "kernel_size", "padding": "padding", "dilation": "dilation"}
    found = {text: tuple(a[name]) * (2 // len(a[name])) for text, name in names.items()}
    stride = tuple(a["stride"]) or tuple(a["kernel_size"])
    return found | {"stride": stride * (2 // len(stride)), "ceil": a["ceil_mode"]}


def _avg_pool2d(a: Bound) -> dict[str, Any]:
    found = _max_pool2d({**a, "dilation": (1, 1)})
    del found["dilation"]
    count_pad, divisor = a["count_include_pad"], a["divisor_override"]
    return found | {"count_pad": count_pad, "divisor": divisor}


_WEIGHT_BIAS = {"weight": "weight", "bias": "bias"}
_STATS = {"running_mean": "running_mean", "running_var": "running_var"}
_INPUT = ("input",)
_BATCH_NORM_NAMES = {2: "batch_norm1d", 3: "batch_norm1d", 4: "batch_norm2d", 5: "batch_norm3d"}


def _conv_rules() -> dict[str, Rule]:
    rules = {}
    for n in (1, 2, 3):
        conv = Rule(f"conv{n}d", _conv, _INPUT, _WEIGHT_BIAS)
        rules[f"aten.conv{n}d"] = rules[f"aten.conv{n}d.padding"] = conv
        transposed = Rule(f"conv_transpose{n}d", _conv_transpose, _INPUT, _WEIGHT_BIAS)
        rules["aten.conv_transpose1d" if n == 1 else f"aten.conv_transpose{n}d.input"] = transposed
    return rules


def _group_norm(a: Bound) -> dict[str, Any]:
    groups = a["num_groups"] if "num_groups" in a else a["group"]
    return {"groups": groups, "channels": len(a["weight"]), "eps": a["eps"], "affine": True}


def _convolution(a: Bound) -> str:
    return f"conv{'_transpose' * a['transposed']}{a['weight'].dim() - 2}d"


def _is_first_alone(a: Bound) -> bool:
    """Of the several results of a call, the graph reads the first one only."""
    return bool(a["#results"] <= {0})


#: The forms that `run_decompositions` leaves behind ("core ATen"); files are often saved so.
_CORE_RULES: dict[str, Rule] = {
    "aten.convolution": Rule(
        _convolution,
        lambda a: _conv_transpose(a) if a["transposed"] else _conv(a),
        _INPUT,
        _WEIGHT_BIAS,
        when=lambda a: isinstance(a["weight"], torch.Tensor) and a["weight"].dim() in (3, 4, 5),
    ),
    "aten._native_batch_norm_legit_no_training": Rule(
        lambda a: _BATCH_NORM_NAMES[_rank(a)],
        _batch_norm,
        _INPUT,
        _WEIGHT_BIAS | _STATS,
        when=_is_first_alone,
    ),
    "aten.native_layer_norm": Rule(
        "layer_norm", _layer_norm, _INPUT, _WEIGHT_BIAS, when=_is_first_alone
    ),
    "aten.native_group_norm": Rule(
        "group_norm",
        _group_norm,
        _INPUT,
        _WEIGHT_BIAS,
        when=lambda a: a["weight"] is not None and _is_first_alone(a),
    ),
    "aten.max_pool2d_with_indices": Rule("max_pool2d", _max_pool2d, when=_is_first_alone),
}

#: ATen overload -> how to raise it. Activations that have no options need no row.
RULES: dict[str, Rule] = {
    "aten.linear": Rule("linear", _linear, _INPUT, _WEIGHT_BIAS),
    "aten.matmul": Rule(
        "linear",
        _product,
        ("self",),
        {"weight": "#weight"},
        when=lambda a: "#weight" in a and a["#self"] >= 2,
    ),
    "aten.mm": Rule(
        "linear", _product, ("self",), {"weight": "#weight"}, when=lambda a: "#weight" in a
    ),
    "aten.addmm": Rule(
        "linear",
        lambda a: _product(a) | {"bias": True},
        ("mat1",),
        {"weight": "#weight", "bias": "self"},
        when=_is_affine,
    ),
    **_conv_rules(),
    **_CORE_RULES,
    "aten.batch_norm": Rule(
        lambda a: _BATCH_NORM_NAMES[_rank(a)],
        _batch_norm,
        _INPUT,
        _WEIGHT_BIAS | _STATS,
        when=lambda a: not a["training"] and a["running_mean"] is not None,
    ),
    "aten.layer_norm": Rule("layer_norm", _layer_norm, _INPUT, _WEIGHT_BIAS),
    "aten.rms_norm": Rule(
        "rms_norm",
        lambda a: {
            "shape": tuple(a["normalized_shape"]),
            "eps": a["eps"],
            "affine": a["weight"] is not None,
        },
        _INPUT,
        {"weight": "weight"},
    ),
    "aten.group_norm": Rule(
        "group_norm",
        _group_norm,
        _INPUT,
        _WEIGHT_BIAS,
        when=lambda a: a["weight"] is not None,
    ),
    "aten.embedding": Rule(
        "embedding",
        lambda a: {
            "rows": a["weight"].shape[0],
            "width": a["weight"].shape[1],
            "padding_idx": a["padding_idx"] if a["padding_idx"] >= 0 else None,
        },
        ("indices",),
        {"weight": "weight"},
    ),
    "aten.dropout": Rule("dropout", lambda a: {"p": a["p"]}, _INPUT),
    "aten.hardtanh": Rule("relu6", when=lambda a: (a["min_val"], a["max_val"]) == (0, 6)),
    "aten.gelu": Rule("gelu", lambda a: {"approximate": a["approximate"]}),
    "aten.softplus": Rule("softplus", when=lambda a: (a["beta"], a["threshold"]) == (1, 20)),
    "aten.leaky_relu": Rule("leaky_relu", lambda a: {"slope": a["negative_slope"]}),
    "aten.elu": Rule(
        "elu",
        lambda a: {"alpha": float(a["alpha"])},
        when=lambda a: (a["scale"], a["input_scale"]) == (1, 1),
    ),
    "aten.max_pool2d": Rule("max_pool2d", _max_pool2d),
    "aten.avg_pool2d": Rule("avg_pool2d", _avg_pool2d),
    "aten.adaptive_avg_pool2d": Rule(
        "adaptive_avg_pool2d",
        lambda a: {"size": tuple(a["output_size"])},
        when=lambda a: all(isinstance(n, int) for n in a["output_size"]),
    ),
}


def raise_call(kind: str, bound: Bound) -> tuple[str, nn.Module, list[Any]] | None:
    """The layer that an ATen call stands for.

    Args:
        kind: the overload's name (`aten.conv2d`).
        bound: its arguments by schema name, held tensors resolved, plus `#x` for the rank
            of operand `x`, `#weight` for the held factor of a product [out, in] and `#results`
            for the positions of the results that are read, where there are several.

    Returns:
        Layer kind, module and operands, or None where the call must stay an ATen call.
    """
    rule = RULES.get(kind) or _plain_activation(kind, bound)
    if rule is None or not rule.when(bound) or not _all_held(rule, bound):
        return None
    name = rule.kind if isinstance(rule.kind, str) else rule.kind(bound)
    layer = build_layer(name, rule.attributes(bound))
    for slot, blank in layer_tensors(layer):
        source = rule.tensors.get(slot)
        value = bound[source] if source else torch.zeros(blank.shape, dtype=blank.dtype)
        place_tensor(layer, slot, value)
    return name, layer, [bound[operand] for operand in rule.operands]


def _plain_activation(kind: str, bound: Bound) -> Rule | None:
    """`aten.tanh(x)`: a layer kind of that name, where neither of the two has options."""
    name = kind.removeprefix("aten.")
    layer = LAYERS.get(name)
    if layer is None or layer.role != "activation" or layer.attributes:
        return None
    return Rule(name) if {key for key in bound if key[0] != "#"} == {"self"} else None


def _all_held(rule: Rule, bound: Bound) -> bool:
    filled = (bound[source] for source in rule.tensors.values())
    return all(value is None or isinstance(value, torch.Tensor) for value in filled)


def place_tensor(layer: nn.Module, slot: str, value: torch.Tensor) -> None:
    """Put a tensor into a leaf module by identity, so that a tied one stays tied."""
    if slot in layer._parameters:
        if not isinstance(value, nn.Parameter):
            value = nn.Parameter(value, requires_grad=value.is_floating_point())
        layer._parameters[slot] = value
    else:
        layer._buffers[slot] = value.detach()


def attention_scale(kind: str, kwargs: dict[str, Any], head_width: Any) -> None:
    """Write attention's default scale down: it must not change when head widths are pruned."""
    if kind == "aten.scaled_dot_product_attention" and kwargs.get("scale") is None:
        kwargs["scale"] = 1.0 / math.sqrt(head_width)
