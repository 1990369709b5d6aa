"""Layers: which dimensions of their tensors are which axes."""

from __future__ import annotations

from typing import Any

from compressc.analysis.axes import Axis, factor_axis, freeze, mark_normalized, unify
from compressc.analysis.coupling_rules.rule import Analysis, Rule, Values, fresh
from compressc.ir import LAYERS, Op


def _linear(c: Analysis, op: Op) -> Values:
    x = c.axes(op.args[0])
    out = c.produce(op, c.sizes(op)[-1])
    c.slot(op, "weight", out, x[-1])
    c.slot(op, "bias", out)
    return (*x[:-1], out)


def _conv(c: Analysis, op: Op) -> Values | None:
    x = c.axes(op.args[0])
    spatial = _conv_rank(op)
    if len(x) != spatial + 2:  # an unbatched call
        return None
    layer: Any = op.layer
    out = c.produce(op, layer.out_channels)
    inner, outer = x[1], out
    if layer.groups > 1:
        groups, inner = factor_axis(x[1], layer.groups, layer.in_channels // layer.groups)
        out_groups, outer = factor_axis(out, layer.groups, layer.out_channels // layer.groups)
        unify(groups, out_groups)
        c.group(op, groups)
    if op.kind.startswith("conv_transpose"):
        c.slot(op, "weight", x[1], outer)
    else:
        c.slot(op, "weight", out, inner)
    c.slot(op, "bias", out)
    return (x[0], out, *fresh(c.sizes(op)[2:]))


def _conv_rank(op: Op) -> int:
    return int(op.kind[-2])


def _batch_norm(c: Analysis, op: Op) -> Values:
    x = c.axes(op.args[0])
    for tensor in ("weight", "bias", "running_mean", "running_var"):
        c.slot(op, tensor, x[1])
    return x


def _last_axes_norm(c: Analysis, op: Op) -> Values:
    x = c.axes(op.args[0])
    layer: Any = op.layer
    over = x[len(x) - len(layer.normalized_shape) :]
    for axis in over:
        mark_normalized(axis, op.name)
        if layer.weight is None:  # no tensor to cut, so nothing would tell the layer
            freeze(axis, "a norm without weights has its width written down", op.name)
    c.slot(op, "weight", *over)
    c.slot(op, "bias", *over)
    return x


def _group_norm(c: Analysis, op: Op) -> Values:
    x = c.axes(op.args[0])
    layer: Any = op.layer
    groups, inner = factor_axis(x[1], layer.num_groups, layer.num_channels // layer.num_groups)
    freeze(groups, "groups of a group norm", op.name)
    mark_normalized(inner, op.name)
    c.slot(op, "weight", x[1])
    c.slot(op, "bias", x[1])
    return x


def _embedding(c: Analysis, op: Op) -> Values:
    x = c.axes(op.args[0])
    layer: Any = op.layer
    width = c.produce(op, layer.embedding_dim)
    c.slot(op, "weight", Axis(layer.num_embeddings, frozen="rows of an embedding"), width)
    return (*x, width)


def _held(c: Analysis, op: Op) -> Values:
    axes = tuple(Axis(size) for size in c.sizes(op))
    c.slot(op, "value", *axes)
    return axes


def _same(c: Analysis, op: Op) -> Values:
    return c.axes(op.args[0])


def _resampling(c: Analysis, op: Op) -> Values:
    """Pooling and interpolation: `pool2d` and `upsample_nearest2d.vec` have two spatial sizes."""
    x = c.axes(op.args[0])
    spatial = int(op.kind.removesuffix(".vec")[-2])
    return (*x[:-spatial], *fresh(c.sizes(op)[-spatial:]))


_ACTIVATIONS = (
    "dropout relu relu6 gelu silu sigmoid tanh hardswish hardsigmoid leaky_relu elu softplus mish"
)

RULES: dict[str, Rule] = {
    "linear": _linear,
    **{kind: _conv for kind in LAYERS if kind.startswith("conv")},
    **{kind: _batch_norm for kind in LAYERS if kind.startswith("batch_norm")},
    "layer_norm": _last_axes_norm,
    "rms_norm": _last_axes_norm,
    "group_norm": _group_norm,
    "embedding": _embedding,
    "parameter": _held,
    "constant": _held,
    **dict.fromkeys(_ACTIVATIONS.split(), _same),
    **dict.fromkeys(("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"), _resampling),
    **{f"aten.{kind}_pool{n}d": _resampling for kind in ("max", "avg") for n in (1, 2, 3)},
    **{f"aten.adaptive_avg_pool{n}d": _resampling for n in (1, 2, 3)},
    **{f"aten.upsample_nearest{n}d.vec": _resampling for n in (1, 2, 3)},
    **{f"aten.upsample_{kind}.vec": _resampling for kind in ("bilinear2d", "bicubic2d")},
    **{f"aten.{kind}": _same for kind in ("clone", "contiguous", "detach", "to.dtype", "alias")},
    "aten._to_copy": _same,
    "quantized_decomposed.quantize_per_tensor": _same,
    "quantized_decomposed.dequantize_per_tensor": _same,
}
