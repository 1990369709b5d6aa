"""How each kind of op is drawn as ONNX nodes: as the ONNX back end's exporter writes it.

An op that is not in the table is not timed; its share of a model's time counts as fixed. Another
kind is one more row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from compressc.analysis.arguments import argument
from compressc.ir import Op
from compressc.probe.sketch import Sketch

#: Shape of a value in numbers.
Shape = tuple[int, ...]
#: Draws an op: (sketch, op, names of operands, their shapes, shape of the result) -> its result.
Draw = Callable[[Sketch, Op, Sequence[str], Sequence[Shape], Shape], str]


def _conv(s: Sketch, op: Op, xs: Sequence[str], shapes: Sequence[Shape], out: Shape) -> str:
    layer: Any = op.layer
    dims, channels = len(layer.kernel_size), shapes[0][1]
    groups = shapes[-1][0] if layer.groups > 1 else 1
    weight = s.weight(out[1], channels // groups, *layer.kernel_size)
    pads = [*layer.padding, *layer.padding]
    return s.node(
        "Conv",
        xs[0],
        weight,
        s.weight(out[1]),
        kernel_shape=list(layer.kernel_size),
        strides=list(layer.stride),
        dilations=list(layer.dilation),
        pads=pads[: 2 * dims],
        group=groups,
    )


def _conv_transposed(
    s: Sketch, op: Op, xs: Sequence[str], shapes: Sequence[Shape], out: Shape
) -> str:
    layer: Any = op.layer
    return s.node(
        "ConvTranspose",
        xs[0],
        s.weight(shapes[0][1], out[1], *layer.kernel_size),
        s.weight(out[1]),
        kernel_shape=list(layer.kernel_size),
        strides=list(layer.stride),
        dilations=list(layer.dilation),
        pads=[*layer.padding, *layer.padding],
        output_padding=list(layer.output_padding),
    )


def _linear(s: Sketch, op: Op, xs: Sequence[str], shapes: Sequence[Shape], out: Shape) -> str:
    wide, biased = shapes[0][-1], getattr(op.layer, "bias", None) is not None
    if len(out) == 2 and biased:
        return s.node("Gemm", xs[0], s.weight(out[1], wide), s.weight(out[1]), transB=1)
    made = s.node("MatMul", xs[0], s.weight(wide, out[-1]))
    return s.node("Add", made, s.weight(out[-1])) if biased else made


def _batch_norm(s: Sketch, op: Op, xs: Sequence[str], shapes: Sequence[Shape], out: Shape) -> str:
    return s.node("BatchNormalization", xs[0], *(s.weight(out[1]) for _ in range(4)))


def _layer_norm(s: Sketch, op: Op, xs: Sequence[str], shapes: Sequence[Shape], out: Shape) -> str:
    dims = len(getattr(op.layer, "normalized_shape", (1,)))
    weights = [s.weight(*out[-dims:]) for _ in range(2)]
    return s.node("LayerNormalization", xs[0], *weights, axis=-dims)


def _group_norm(s: Sketch, op: Op, xs: Sequence[str], shapes: Sequence[Shape], out: Shape) -> str:
    """As the exporter takes it apart: the groups as channels of an instance norm."""
    groups: Any = getattr(op.layer, "num_groups", 1)
    apart = s.node("Reshape", xs[0], s.integers(0, groups, -1))
    ones, zeros = s.weight(groups), s.weight(groups)
    normed = s.node("InstanceNormalization", apart, ones, zeros)
    whole = s.node("Reshape", normed, s.integers(*out))
    ones, zeros = (s.weight(out[1], *(1 for _ in out[2:])) for _ in range(2))
    return s.node("Add", s.node("Mul", whole, ones), zeros)


def _slice(s: Sketch, op: Op, xs: Sequence[str], shapes: Sequence[Shape], out: Shape) -> str:
    """From the first index on: as much is moved wherever it begins."""
    dim = int(argument(op, "dim")) % len(out)
    step = int(argument(op, "step") or 1)
    parts = (s.integers(n) for n in (0, out[dim] * step, dim, step))
    return s.node("Slice", xs[0], *parts)


def _embedding(s: Sketch, op: Op, xs: Sequence[str], shapes: Sequence[Shape], out: Shape) -> str:
    rows: Any = getattr(op.layer, "num_embeddings", 1)
    return s.node("Gather", s.weight(rows, out[-1]), xs[0])


def _recurrent(s: Sketch, op: Op, xs: Sequence[str], shapes: Sequence[Shape], out: Shape) -> str:
    """Of zero states; the sequence is what is drawn of the results."""
    layer: Any = op.layer
    both, hidden = layer.directions, out[-1] // layer.directions
    value, wide, rows = xs[0], shapes[0][-1], layer.GATES * hidden
    if layer.batch_first:
        value = s.node("Transpose", value, perm=[1, 0, 2])
    for _ in range(layer.num_layers):
        weights = s.weight(both, rows, wide), s.weight(both, rows, hidden), s.weight(both, 2 * rows)
        direction = "bidirectional" if layer.bidirectional else "forward"
        cells = s.node(op.kind.upper(), value, *weights, hidden_size=hidden, direction=direction)
        cells = s.node("Transpose", cells, perm=[0, 2, 1, 3])
        value, wide = s.node("Reshape", cells, s.integers(0, 0, both * hidden)), both * hidden
    return s.node("Transpose", value, perm=[1, 0, 2]) if layer.batch_first else value


def _pool(kind: str) -> Draw:
    def draw(s: Sketch, op: Op, xs: Sequence[str], shapes: Sequence[Shape], out: Shape) -> str:
        layer: Any = op.layer
        kernel, stride, padding = (
            list(_pair(x)) for x in (layer.kernel_size, layer.stride, layer.padding)
        )
        extra = {"ceil_mode": int(layer.ceil_mode)}
        pads = [*padding, *padding]
        return s.node(kind, xs[0], kernel_shape=kernel, strides=stride, pads=pads, **extra)

    return draw


def _pair(value: Any) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def _global_pool(s: Sketch, op: Op, xs: Sequence[str], shapes: Sequence[Shape], out: Shape) -> str:
    return s.node("ReduceMean", xs[0], s.integers(2, 3), keepdims=1)


def _mean(s: Sketch, op: Op, xs: Sequence[str], shapes: Sequence[Shape], out: Shape) -> str:
    dims = argument(op, "dim") or range(len(shapes[0]))
    return s.node("ReduceMean", xs[0], s.integers(*dims), keepdims=int(argument(op, "keepdim")))


def _each(kind: str, **attributes: Any) -> Draw:
    """Nodes of one operand that take each element for itself."""

    def draw(s: Sketch, op: Op, xs: Sequence[str], shapes: Sequence[Shape], out: Shape) -> str:
        return s.node(kind, xs[0], **attributes)

    return draw


def _relu6(s: Sketch, op: Op, xs: Sequence[str], shapes: Sequence[Shape], out: Shape) -> str:
    return s.node("Clip", xs[0], s.number(0.0), s.number(6.0))


def _silu(s: Sketch, op: Op, xs: Sequence[str], shapes: Sequence[Shape], out: Shape) -> str:
    return s.node("Mul", xs[0], s.node("Sigmoid", xs[0]))


def _gelu(s: Sketch, op: Op, xs: Sequence[str], shapes: Sequence[Shape], out: Shape) -> str:
    return s.node("Gelu", xs[0], approximate=getattr(op.layer, "approximate", "none"))


def _both(kind: str) -> Draw:
    """Nodes of two operands."""

    def draw(s: Sketch, op: Op, xs: Sequence[str], shapes: Sequence[Shape], out: Shape) -> str:
        return s.node(kind, *(xs if len(xs) == 2 else (xs[0], s.number(0.5))))

    return draw


def _softmax(s: Sketch, op: Op, xs: Sequence[str], shapes: Sequence[Shape], out: Shape) -> str:
    return s.node("Softmax", xs[0], axis=int(argument(op, "dim")))


def _attention(s: Sketch, op: Op, xs: Sequence[str], shapes: Sequence[Shape], out: Shape) -> str:
    dims = list(range(len(out)))
    if in_groups(op):  # a key that several queries ask is repeated first
        xs = [xs[0], *(_repeated(s, xs[i], shapes[i], out[1]) for i in (1, 2))]
    turned = s.node("Transpose", xs[1], perm=[*dims[:-2], dims[-1], dims[-2]])
    query, key = (s.node("Mul", x, s.number(0.5)) for x in (xs[0], turned))
    scores = s.node("MatMul", query, key)
    return s.node("MatMul", s.node("Softmax", scores, axis=-1), xs[2])


def _repeated(s: Sketch, x: str, shape: Shape, heads: int) -> str:
    """Keys or values `[b, kv, n, d]` as `[b, heads, n, d]`."""
    batch, own, *rest = shape
    apart = s.node("Unsqueeze", x, s.integers(2))
    many = s.node("Expand", apart, s.integers(batch, own, heads // own, *rest))
    return s.node("Reshape", many, s.integers(batch, heads, *rest))


def _transpose(s: Sketch, op: Op, xs: Sequence[str], shapes: Sequence[Shape], out: Shape) -> str:
    perm = list(range(len(out)))
    a, b = (int(argument(op, name)) % len(out) for name in ("dim0", "dim1"))
    perm[a], perm[b] = perm[b], perm[a]
    return s.node("Transpose", xs[0], perm=perm)


def _permute(s: Sketch, op: Op, xs: Sequence[str], shapes: Sequence[Shape], out: Shape) -> str:
    return s.node("Transpose", xs[0], perm=[int(dim) % len(out) for dim in argument(op, "dims")])


def _cat(s: Sketch, op: Op, xs: Sequence[str], shapes: Sequence[Shape], out: Shape) -> str:
    return s.node("Concat", *xs, axis=int(argument(op, "dim")) % len(out))


#: Layer kind, or packet of an ATen call -> how it is drawn.
DRAWN: dict[str, Draw] = {
    **{f"conv{n}d": _conv for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": _conv_transposed for n in (1, 2, 3)},
    **{f"batch_norm{n}d": _batch_norm for n in (1, 2, 3)},
    "linear": _linear,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "embedding": _embedding,
    **dict.fromkeys(("lstm", "gru", "rnn"), _recurrent),
    "max_pool2d": _pool("MaxPool"),
    "avg_pool2d": _pool("AveragePool"),
    "adaptive_avg_pool2d": _global_pool,
    "relu": _each("Relu"),
    "relu6": _relu6,
    "gelu": _gelu,
    "silu": _silu,
    "sigmoid": _each("Sigmoid"),
    "tanh": _each("Tanh"),
    "hardswish": _each("HardSwish"),
    "hardsigmoid": _each("HardSigmoid", alpha=1 / 6),
    "leaky_relu": _each("LeakyRelu"),
    "elu": _each("Elu"),
    "softplus": _each("Softplus"),
    "mish": _each("Mish"),
    "aten.add": _both("Add"),
    "aten.sub": _both("Sub"),
    "aten.mul": _both("Mul"),
    "aten.div": _both("Div"),
    "aten.matmul": _both("MatMul"),
    "aten.bmm": _both("MatMul"),
    "aten.mean": _mean,
    "aten.softmax": _softmax,
    "aten.scaled_dot_product_attention": _attention,
    "aten.transpose": _transpose,
    "aten.permute": _permute,
    "aten.cat": _cat,
    "aten.slice": _slice,
}


def draw_of(op: Op) -> Draw | None:
    """How an op is drawn; None where it is not."""
    found = DRAWN.get(op.kind) or DRAWN.get(op.packet)
    layer: Any = op.layer
    if op.role in ("convolution", "transposed_convolution"):
        alone = layer.groups == 1 or op.role == "convolution"
        plain = isinstance(layer.padding, tuple) and layer.padding_mode == "zeros"
        return found if plain and alone else None
    if op.packet == "aten.slice" and int(argument(op, "step") or 1) < 1:
        return None
    if op.kind == "adaptive_avg_pool2d" and layer.output_size not in (1, (1, 1)):
        return None
    return found


def in_groups(op: Op) -> bool:
    """Whether channels or heads of an op lie in groups, so that no size of them goes by itself."""
    if op.packet == "aten.scaled_dot_product_attention":
        return bool(argument(op, "enable_gqa"))
    return op.kind == "group_norm" or getattr(op.layer, "groups", 1) > 1
