"""Layers, and calls in place of one: which dimensions of their tensors are which axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from compressc.analysis.arguments import argument
from compressc.analysis.axes import (
    Axis,
    concat_axes,
    factor_axis,
    freeze,
    mark_normalized,
    product_axis,
    unify,
)
from compressc.analysis.coupling_rules.rule import (
    Analysis,
    Axes,
    Rule,
    Values,
    freeze_dims,
    fresh,
    operand,
)
from compressc.ir import Op, Role

_SLIDES = "a convolution slides along it"


def _linear(c: Analysis, op: Op) -> Values:
    x = c.axes(op.args[0])
    out = c.produce(op, c.sizes(op)[-1])
    c.slot(op, "weight", out, x[-1])
    c.slot(op, "bias", out)
    return (*x[:-1], out)


def _conv(c: Analysis, op: Op) -> Values:
    x = c.axes(op.args[0])
    layer: Any = op.layer
    channel = len(x) - len(layer.kernel_size) - 1  # 0 in an unbatched call
    out = c.produce(op, layer.out_channels)
    inner, outer = x[channel], out
    if layer.groups > 1:
        per_group = layer.in_channels // layer.groups
        groups, inner = factor_axis(x[channel], layer.groups, per_group)
        out_groups, outer = factor_axis(out, layer.groups, layer.out_channels // layer.groups)
        unify(groups, out_groups)
        c.group(op, groups)
    if op.role == "transposed_convolution":
        c.slot(op, "weight", x[channel], outer)
    else:
        c.slot(op, "weight", out, inner)
    c.slot(op, "bias", out)
    return (*x[:channel], out, *_slid(c, op, x[channel + 1 :]))


def _slid(c: Analysis, op: Op, spatial: Axes) -> Axes:
    """What becomes of the dimensions that a kernel moves along; one of size 1 leaves them alone."""
    layer: Any = op.layer
    steps = list(zip(layer.kernel_size, layer.stride, strict=True))
    return _moved_along(c, op, spatial, steps)


def _moved_along(
    c: Analysis, op: Op, spatial: Axes, steps: Sequence[tuple[int, int]]
) -> tuple[Axis, ...]:
    out: list[Axis] = []
    sizes = c.sizes(op)[-len(spatial) :]
    for axis, size, step in zip(spatial, sizes, steps, strict=True):
        if step == (1, 1) and axis.size == size:
            out.append(axis)
        else:
            freeze(axis, _SLIDES, op.name)
            out += fresh([size], _SLIDES, op.name)
    return tuple(out)


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
    _in_groups(x[1], layer.num_groups, op)
    c.slot(op, "weight", x[1])
    c.slot(op, "bias", x[1])
    return x


def _in_groups(channels: Axis, count: int, op: Op) -> None:
    """A statistic over each of some groups of channels, whose number is written down."""
    groups, inner = factor_axis(channels, count, channels.size // count)
    freeze(groups, "groups of a group norm", op.name)
    mark_normalized(inner, op.name)


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


def _recurrent(c: Analysis, op: Op) -> Values:
    """One width of states for all layers and directions; each index has a row per gate.

    An index whose rows are zero stays zero at every step, whatever the cell.
    """
    layer: Any = op.layer
    x = c.axes(op.args[0])
    states = c.produce(op, layer.hidden_size)
    rows = concat_axes([states] * layer.GATES)
    out = concat_axes([states] * layer.directions)
    for suffix, _ in layer.parts():
        c.slot(op, f"weight_ih{suffix}", rows, x[-1] if suffix.startswith("_l0") else out)
        c.slot(op, f"weight_hh{suffix}", rows, states)
        c.slot(op, f"bias_ih{suffix}", rows)
        c.slot(op, f"bias_hh{suffix}", rows)
    batch = x[0 if layer.batch_first else 1]
    for ref in op.args[1:]:
        given = c.axes(ref)
        freeze(given[0], "layers and directions of a recurrent layer", op.name)
        unify(given[1], batch)
        unify(given[2], states)
    count = layer.num_layers * layer.directions
    last = (*fresh([count], "layers and directions of a recurrent layer", op.name), batch, states)
    return ((*x[:-1], out), *[last] * layer.STATES)


# ---- calls whose tensors are operands -----------------------------------------------------------

_PER_CHANNEL = ("weight", "bias", "running_mean", "running_var")


def _unify_channels(c: Analysis, op: Op, channels: Axis) -> None:
    for name in _PER_CHANNEL:
        held = operand(c, op, name)
        if held is not None and len(held) == 1:
            unify(channels, held[0])


def _conv_call(c: Analysis, op: Op) -> Values:
    """Weights that are computed: [out, in / groups, ...]; transposed ones [in, out / groups, ...].

    The number of groups is an argument, and stays.
    """
    x, weight = operand(c, op, "input"), operand(c, op, "weight")
    assert x is not None
    assert weight is not None
    transposed = "transpose" in op.kind or bool(argument(op, "transposed"))
    channel = len(x) - len(weight) + 1
    groups = c.size(argument(op, "groups"))
    outer, inner = factor_axis(x[channel], groups, x[channel].size // groups)
    own, first = factor_axis(weight[0], groups, weight[0].size // groups)
    unify(outer, own)
    freeze(own, "the groups of a convolution are written down", op.name)
    unify(inner, first if transposed else weight[1])
    out = product_axis(own, weight[1]) if transposed else weight[0]
    for axis in operand(c, op, "bias") or ():
        unify(axis, out)
    freeze_dims(weight, range(2, len(weight)), "a kernel", op)
    strides = argument(op, "stride")
    steps = [
        (axis.size, strides[dim % len(strides)] if strides else 1)
        for dim, axis in enumerate(weight[2:])
    ]
    return (*x[:channel], out, *_moved_along(c, op, x[channel + 1 :], steps))


def _channel_norm(c: Analysis, op: Op) -> Values:
    """Instance norm, and batch norm with statistics of its input: means over all but channels."""
    x = c.axes(op.args[0])
    _unify_channels(c, op, x[1])
    if argument(op, "training") or argument(op, "use_input_stats"):
        first = 2 if "instance" in op.kind else 0
        for dim, axis in enumerate(x):
            if dim >= first and dim != 1:
                mark_normalized(axis, op.name)
    return x


def _group_norm_call(c: Analysis, op: Op) -> Values:
    x = c.axes(op.args[0])
    _unify_channels(c, op, x[1])
    _in_groups(x[1], argument(op, "num_groups"), op)
    return x


def _last_axes_norm_call(c: Analysis, op: Op) -> Values:
    """Its width is an argument, which follows a cut as a size does."""
    x = c.axes(op.args[0])
    over = x[len(x) - len(argument(op, "normalized_shape")) :]
    for axis in over:
        mark_normalized(axis, op.name)
    for name in ("weight", "bias"):
        for axis, own in zip(over, operand(c, op, name) or (), strict=False):
            unify(axis, own)
    return x


def _prelu(c: Analysis, op: Op) -> Values:
    """One slope, or one for each channel."""
    x, slope = c.axes(op.args[0]), c.axes(op.args[1])
    if slope and slope[0].size > 1:
        unify(x[1 if len(x) > 1 else 0], slope[0])
    return x


def _embedding_call(c: Analysis, op: Op) -> Values:
    """Rows of a table that is computed."""
    table = c.axes(op.args[0])
    freeze(table[0], "rows of an embedding", op.name)
    return (*c.axes(op.args[1]), table[1])


def _embedding_bag(c: Analysis, op: Op) -> Values | None:
    """[rows, width] weights, summed by bags."""
    weight = c.axes(op.args[0])
    freeze(weight[0], "rows of an embedding", op.name)
    if c.reads(op, 1) or c.reads(op, 2) or c.reads(op, 3):
        return None
    first = (*fresh(c.sizes(op)[:1]), weight[1])
    return (first, *(fresh([0]) for _ in range(3)))


def _same(c: Analysis, op: Op) -> Values:
    return c.axes(op.args[0])


#: Role of a layer -> rule.
ROLES: dict[Role, Rule] = {
    "linear": _linear,
    "convolution": _conv,
    "transposed_convolution": _conv,
    "batch_norm": _batch_norm,
    "layer_norm": _last_axes_norm,
    "group_norm": _group_norm,
    "embedding": _embedding,
    "recurrent": _recurrent,
    "tensor": _held,
    "activation": _same,
    "dropout": _same,
}
#: Overload of a call -> rule.
RULES: dict[str, Rule] = {
    "aten.batch_norm": _channel_norm,
    "aten.instance_norm": _channel_norm,
    "aten.group_norm": _group_norm_call,
    "aten.layer_norm": _last_axes_norm_call,
    "aten.rms_norm": _last_axes_norm_call,
    "aten.prelu": _prelu,
    "aten.embedding": _embedding_call,
    "aten.embedding_bag.padding_idx": _embedding_bag,
    "aten.embedding_bag": _embedding_bag,
}
_CONVOLUTIONS = (
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution"
)
#: Name of an ATen op, without its overload -> rule.
FAMILIES: dict[str, Rule] = dict.fromkeys(_CONVOLUTIONS.split(), _conv_call)
