"""One rule per op: which axes its result has, given the axes of its operands.

A rule returns the axes, or None where this call is beyond it; the analysis then freezes everything
the op touches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from compressc.analysis.axes import (
    Axis,
    concat_axes,
    factor_axis,
    find,
    freeze,
    leaves,
    mark_normalized,
    reshape_axes,
    set_role,
    split_axis,
    unify,
)
from compressc.ir import LAYERS, Op, Ref, TupleType
from compressc.ir.ops import overload, refs_of

Axes = tuple[Axis, ...]
Values = Axes | tuple[Axes, ...]


class Analysis(Protocol):
    """What a rule may ask of the analysis; see `coupling._Analysis`."""

    def axes(self, ref: Any) -> Axes:
        """Axes of an operand."""

    def sizes(self, op: Op) -> list[int]:
        """The result's shape as numbers."""

    def size(self, size: Any) -> int:
        """A size as a number."""

    def slot(self, op: Op, tensor: str, *axes: Axis) -> None:
        """Declare the axes of a layer's tensor."""

    def produce(self, op: Op, size: int) -> Axis:
        """A fresh axis that an op's weight makes."""

    def group(self, op: Op, axis: Axis) -> None:
        """Declare the axis of a convolution's channel groups."""


Rule = Callable[[Any, Op], "Values | None"]

_SPATIAL = "spatial or sequence size"


def _fresh(sizes: Sequence[int], reason: str = _SPATIAL) -> Axes:
    return tuple(Axis(size, frozen=reason) for size in sizes)


# ---- layers -------------------------------------------------------------------------------------


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
    return (x[0], out, *_fresh(c.sizes(op)[2:]))


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
    return (*x[:-spatial], *_fresh(c.sizes(op)[-spatial:]))


# ---- reshaping ----------------------------------------------------------------------------------


def _reshape(c: Analysis, op: Op) -> Values:
    return reshape_axes(c.axes(op.args[0]), c.sizes(op))


def _permute(c: Analysis, op: Op) -> Values:
    x = c.axes(op.args[0])
    return tuple(x[dim] for dim in op.args[1])


def _transpose(c: Analysis, op: Op) -> Values:
    x = list(c.axes(op.args[0]))
    a, b = op.args[1:3] if op.kind == "aten.transpose.int" else (0, len(x) - 1)
    x[a], x[b] = x[b], x[a]
    return tuple(x)


def _unsqueeze(c: Analysis, op: Op) -> Values:
    x = list(c.axes(op.args[0]))
    x.insert(op.args[1] % (len(x) + 1), Axis(1))
    return tuple(x)


def _squeeze(c: Analysis, op: Op) -> Values | None:
    x = c.axes(op.args[0])
    dims = op.args[1] if len(op.args) > 1 else range(len(x))
    gone = {dim % len(x) for dim in (dims if isinstance(dims, tuple | range) else (dims,))}
    return tuple(axis for dim, axis in enumerate(x) if dim not in gone or axis.size != 1)


def _expand(c: Analysis, op: Op) -> Values:
    x, sizes = c.axes(op.args[0]), c.sizes(op)
    padded = (*(Axis(1) for _ in range(len(sizes) - len(x))), *x)
    return tuple(a if a.size == n else Axis(n) for a, n in zip(padded, sizes, strict=True))


def _select(c: Analysis, op: Op) -> Values:
    x = list(c.axes(op.args[0]))
    freeze(x.pop(op.args[1]), "single indices are read from it", op.name)
    return tuple(x)


def _slice(c: Analysis, op: Op) -> Values:
    x = list(c.axes(op.args[0]))
    dim = (op.args[1] if len(op.args) > 1 else 0) % len(x)
    size = c.sizes(op)[dim]
    if size != x[dim].size:
        freeze(x[dim], "a slice is read from it", op.name)
        x[dim] = Axis(size, frozen="a slice")
    return tuple(x)


def _unbind(c: Analysis, op: Op) -> Values:
    x = list(c.axes(op.args[0]))
    gone = x.pop(op.args[1] if len(op.args) > 1 else 0)
    freeze(gone, "its indices are told apart", op.name)
    return tuple(tuple(x) for _ in range(gone.size))


def _cat(c: Analysis, op: Op) -> Values:
    operands = [c.axes(ref) for ref in op.args[0]]
    dim = (op.args[1] if len(op.args) > 1 else op.kwargs.get("dim", 0)) % len(operands[0])
    out = list(operands[0])
    for other in operands[1:]:
        for i, axis in enumerate(other):
            if i != dim:
                unify(out[i], axis)
    out[dim] = concat_axes([axes[dim] for axes in operands])
    return tuple(out)


def _split(c: Analysis, op: Op) -> Values:
    x = c.axes(op.args[0])
    assert isinstance(op.type, TupleType)
    dim = (op.args[2] if len(op.args) > 2 else op.kwargs.get("dim", 0)) % len(x)
    pieces = split_axis(x[dim], [c.size(item.shape[dim]) for item in op.type.items])
    return tuple((*x[:dim], piece, *x[dim + 1 :]) for piece in pieces)


def _pad(c: Analysis, op: Op) -> Values:
    x, sizes = c.axes(op.args[0]), c.sizes(op)
    out = []
    for axis, size in zip(x, sizes, strict=True):
        if axis.size != size:
            freeze(axis, "padded", op.name)
        out.append(axis if axis.size == size else Axis(size, frozen="padded"))
    return tuple(out)


# ---- arithmetic ---------------------------------------------------------------------------------


def _pointwise(c: Analysis, op: Op) -> Values:
    operands = [c.axes(ref) for ref in refs_of((op.args, op.kwargs))]
    return _broadcast(operands, c.sizes(op))


def _broadcast(operands: Sequence[Axes], sizes: Sequence[int]) -> Axes:
    out: list[Axis] = []
    for back in range(1, len(sizes) + 1):
        here = [axes[-back] for axes in operands if len(axes) >= back]
        wide = [axis for axis in here if axis.size == sizes[-back]]
        for axis in wide[1:]:
            unify(wide[0], axis)
        out.append(wide[0])
    return tuple(reversed(out))


def _matmul(c: Analysis, op: Op) -> Values | None:
    a, b = c.axes(op.args[0]), c.axes(op.args[1])
    if len(a) < 2 or len(b) < 2:
        return None
    unify(a[-1], b[-2])
    heads = _matmul_heads(a) if len(a) == len(b) else []
    _set_heads(heads)
    for axis in (a[-1], b[-1]) if heads else ():
        if not find(axis).frozen:  # the other one is the positions
            set_role(axis, "head width")
    batch = _broadcast([a[:-2], b[:-2]], c.sizes(op)[:-2])
    return (*batch, a[-2], b[-1])


def _matmul_heads(a: Axes) -> list[Axis]:
    """The heads of written-out attention, scores = q @ k.T and context = scores @ v.

    Operands are [b, heads, n, d], or [b * heads, n, d] as `nn.MultiheadAttention` has them.
    """
    if len(a) > 3:
        return leaves(a[1])
    parts = leaves(a[0])
    return parts[1:] if len(a) == 3 else []


def _set_heads(axes: Sequence[Axis]) -> None:
    """Give leaves their role: several of them are groups of heads and the heads of a group."""
    wide = [axis for axis in axes if axis.size > 1]
    for outermost, axis in zip((True, *(False for _ in wide)), wide, strict=False):
        set_role(axis, "heads" if outermost else "queries per head")


def _attention(c: Analysis, op: Op) -> Values | None:
    q, k, v = (c.axes(ref) for ref in op.args[:3])
    if not len(q) == len(k) == len(v):
        return None
    unify(q[-1], k[-1])
    unify(k[-2], v[-2])
    for left, right in zip(k[:-2], v[:-2], strict=True):
        unify(left, right)
    for left, right in zip(q[:-2], k[:-2], strict=True):
        if left.size == right.size:
            unify(left, right)
        else:  # grouped queries: heads of q are (heads of k) x (queries per head)
            groups, _ = factor_axis(left, right.size, left.size // right.size)
            unify(groups, right)
    freeze(k[-2], "a softmax runs over it", op.name)
    for axis in q[1:-2]:
        _set_heads(leaves(axis))
    for axis in (q[-1], v[-1]):
        set_role(axis, "head width")
    mask = op.args[3] if len(op.args) > 3 else op.kwargs.get("attn_mask")
    if isinstance(mask, Ref):
        _broadcast([c.axes(mask), (*q[:-1], k[-2])], [a.size for a in (*q[:-1], k[-2])])
    return (*q[:-1], v[-1])


def _softmax(c: Analysis, op: Op) -> Values:
    x = c.axes(op.args[0])
    freeze(x[op.args[1]], "a softmax runs over it", op.name)
    return x


def _cumulative(c: Analysis, op: Op) -> Values:
    x = c.axes(op.args[0])
    freeze(x[op.args[1]], "a running sum goes along it", op.name)
    return x


def _reduce(c: Analysis, op: Op) -> Values | None:
    x = list(c.axes(op.args[0]))
    dims = op.args[1] if len(op.args) > 1 else None
    if dims is None or dims == ():  # over everything
        return None
    gone = {dim % len(x) for dim in (dims if isinstance(dims, tuple) else (dims,))}
    keep = op.args[2] if len(op.args) > 2 else op.kwargs.get("keepdim", False)
    for dim in gone:
        mark_normalized(x[dim], op.name)
    kept = ((d, Axis(1) if d in gone else axis) for d, axis in enumerate(x))
    return tuple(axis for d, axis in kept if keep or d not in gone)


_ACTIVATIONS = (
    "dropout relu relu6 gelu silu sigmoid tanh hardswish hardsigmoid leaky_relu elu softplus mish"
)

#: Op kind -> rule. Pointwise ATen ops need no entry: torch tags them.
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
    "aten.cumsum": _cumulative,
    "quantized_decomposed.quantize_per_tensor": _same,
    "quantized_decomposed.dequantize_per_tensor": _same,
    **{f"aten.{kind}": _reshape for kind in ("reshape", "view", "_unsafe_view")},
    **{f"aten.{kind}": _reshape for kind in ("flatten.using_ints", "unflatten.int")},
    "aten.permute": _permute,
    "aten.transpose.int": _transpose,
    "aten.t": _transpose,
    "aten.unsqueeze": _unsqueeze,
    **{f"aten.{kind}": _squeeze for kind in ("squeeze", "squeeze.dim", "squeeze.dims")},
    "aten.expand": _expand,
    "aten.select.int": _select,
    "aten.slice.Tensor": _slice,
    "aten.unbind.int": _unbind,
    "aten.cat": _cat,
    **{f"aten.{kind}": _split for kind in ("split_with_sizes", "split.Tensor", "chunk")},
    "aten.constant_pad_nd": _pad,
    "aten.pad": _pad,
    "aten.matmul": _matmul,
    "aten.bmm": _matmul,
    "aten.scaled_dot_product_attention": _attention,
    **{f"aten.{kind}": _softmax for kind in ("softmax.int", "_softmax", "log_softmax.int")},
    **{f"aten.{kind}": _reduce for kind in ("mean.dim", "sum.dim_IntList", "amax", "amin")},
}


def rule_for(op: Op) -> Rule | None:
    """The rule of an op, or None where it has none."""
    if op.kind in RULES:
        return RULES[op.kind]
    if op.layer is None and op.kind != "input":
        target = overload(op.kind)
        tags = getattr(target, "tags", ())
        if torch.Tag.pointwise in tags and op.inputs:
            return _pointwise
    return None
