"""Multiply-accumulates of one op: one table of rules, for sizes that are numbers or expressions.

What is counted are contractions: products of two tensors that are summed (matrix products,
convolutions, attention, recurrences). Element-wise products, norms, pooling and interpolation are
no contractions and count 0, as everywhere in the field. Causal attention counts in full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import torch

from compressc.analysis.arguments import argument
from compressc.analysis.equations import labels_of
from compressc.ir import LAYERS, NORMS, Graph, Op, Role, TensorType, TupleType
from compressc.ir.ops import overload
from compressc.ir.types import Size

#: Turns a size of a type into what is counted with: a number, or an expression of the dimensions.
SizeOf = Callable[[Size], Any]


@dataclass(frozen=True)
class Call:
    """One op as the rules see it."""

    graph: Graph
    op: Op
    size_of: SizeOf

    def argument(self, name: str) -> Any:
        """An argument by its schema name, as the IR holds it."""
        return argument(self.op, name)

    def sizes(self, operand: Any) -> tuple[Any, ...]:
        """Shape of an operand: a reference, or the name or position of an argument."""
        if isinstance(operand, str):
            operand = self.argument(operand)
        elif isinstance(operand, int):
            operand = self.op.args[operand]
        return self._shape(self.graph.type_of(operand.name))

    @property
    def out(self) -> tuple[Any, ...]:
        """Shape of the result; of the first one where there are several."""
        type_ = self.op.type
        return self._shape(type_.items[0] if isinstance(type_, TupleType) else type_)

    def _shape(self, type_: Any) -> tuple[Any, ...]:
        assert isinstance(type_, TensorType)
        return tuple(map(self.size_of, type_.shape))


# ---- layers ------------------------------------------------------------------------------------


def _linear_layer(call: Call) -> Any:
    layer: Any = call.op.layer
    return prod(call.out) * int(layer.in_features)


def _conv_layer(call: Call) -> Any:
    layer: Any = call.op.layer
    return prod(call.out) * int(layer.in_channels // layer.groups * prod(layer.kernel_size))


def _conv_transpose_layer(call: Call) -> Any:
    layer: Any = call.op.layer
    return prod(call.sizes(0)) * int(layer.out_channels // layer.groups * prod(layer.kernel_size))


def _recurrent_layer(call: Call) -> Any:
    """Every weight matrix meets every step of every sequence once."""
    layer: Any = call.op.layer
    rows = layer.GATES * layer.hidden_size
    wide = sum(width + layer.hidden_size for _, width in layer.parts())
    return prod(call.sizes(0)[:-1]) * rows * wide


# ---- ATen calls --------------------------------------------------------------------------------


def _inner(name: str) -> Callable[[Call], Any]:
    """Output elements times the last dimension of an operand: any product of matrices."""
    return lambda call: prod(call.out) * call.sizes(name)[-1]


def _addbmm(call: Call) -> Any:
    """The batch is summed, too."""
    batch, _, inner = call.sizes("batch1")
    return prod(call.out) * batch * inner


def _bilinear(call: Call) -> Any:
    _, first, second = call.sizes("weight")
    return prod(call.out) * first * (second + 1)


def _tensordot(call: Call) -> Any:
    summed = call.argument("dims_self")
    sizes = call.sizes("self")
    return prod(call.out) * prod(sizes[dim] for dim in summed)


def _conv(call: Call) -> Any:
    """[out, in / groups, kernel...] weights; transposed ones are [in, out / groups, kernel...]."""
    weight = call.sizes("weight")
    if "transpose" in call.op.kind or call.argument("transposed"):
        return prod(call.sizes("input")) * prod(weight[1:])
    return prod(call.out) * prod(weight[1:])


def _attention(call: Call) -> Any:
    """Scores q.k and context scores.v; by the output's heads, so grouped queries count in full."""
    return prod(call.out[:-1]) * call.sizes("key")[-2] * (call.sizes("query")[-1] + call.out[-1])


def _recurrent(call: Call) -> Any:
    """Every weight matrix meets every step of every sequence once."""
    data = call.sizes("data" if call.argument("data") is not None else "input")
    weights = [call.sizes(ref) for ref in call.argument("params")]
    return prod(data[:-1]) * sum(prod(shape) for shape in weights if len(shape) == 2)


def _cell(call: Call) -> Any:
    rows = prod(call.sizes("input")[:-1])
    return rows * (prod(call.sizes("w_ih")) + prod(call.sizes("w_hh")))


def _einsum(call: Call) -> Any:
    """Operands are contracted from left to right, as torch does without a planned path."""
    shapes = [call.sizes(ref) for ref in call.argument("tensors")]
    labels, result = labels_of(str(call.argument("equation")), [len(shape) for shape in shapes])
    sizes: dict[str, Any] = {}
    for names, shape in zip(labels, shapes, strict=True):
        sizes |= {n: s for n, s in zip(names, shape, strict=True) if s != 1 or n not in sizes}
    kept = set(result)
    total: Any = 0
    left = set(labels[0])
    for position, names in enumerate(labels[1:], 1):
        joined = left | set(names)
        total += prod(sizes[name] for name in sorted(joined))
        needed = kept.union(*labels[position + 1 :])
        left = joined & needed
    return total


def _free(call: Call) -> Any:
    return 0


#: Role of a layer -> its rule.
ROLES: dict[Role, Callable[[Call], Any]] = {
    "linear": _linear_layer,
    "convolution": _conv_layer,
    "transposed_convolution": _conv_transpose_layer,
    "embedding": _free,
    **dict.fromkeys(NORMS, _free),
    "activation": _free,
    "dropout": _free,
    "average_pool": _free,
    "max_pool": _free,
    "recurrent": _recurrent_layer,
    "tensor": _free,
}
#: Kind -> its rule. A plugin that registers a layer without a role adds its rule here.
RULES: dict[str, Callable[[Call], Any]] = {
    "input": _free,
    "getitem": _free,
    **{
        f"aten.{name}": _inner("self")
        for name in ("matmul", "bmm", "mm", "mv", "dot", "vdot", "inner")
    },
    "aten._int_mm": _inner("self"),
    "aten._scaled_mm": _inner("self"),
    "aten.linear": _inner("input"),
    "aten.addmm": _inner("mat1"),
    "aten._addmm_activation": _inner("mat1"),
    "aten.addmv": _inner("mat"),
    "aten.baddbmm": _inner("batch1"),
    "aten.addbmm": _addbmm,
    "aten.bilinear": _bilinear,
    "aten.tensordot": _tensordot,
    "aten.einsum": _einsum,
    "aten.convolution": _conv,
    "aten._convolution": _conv,
    **{f"aten.conv{n}d{form}": _conv for n in (1, 2, 3) for form in ("", ".padding")},
    "aten.conv_transpose1d": _conv,
    **{f"aten.conv_transpose{n}d.input": _conv for n in (2, 3)},
    "aten.scaled_dot_product_attention": _attention,
    "aten._scaled_dot_product_attention_math": _attention,
    "aten._scaled_dot_product_flash_attention": _attention,
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten._scaled_dot_product_efficient_attention": _attention,
    **{
        f"aten.{name}.{form}": _recurrent
        for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")
        for form in ("input", "data")
    },
    **{f"aten.{name}_cell": _cell for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
}
#: Operators that contract nothing and that torch tags neither as point-wise nor as a view.
_NAMES = """
_adaptive_avg_pool2d _adaptive_avg_pool3d _embedding_bag _log_softmax _masked_softmax
_native_batch_norm_legit_no_training _safe_softmax _shape_as_tensor _softmax _to_copy _unique2
_unsafe_index _unsafe_view _weight_norm _weight_norm_interface absolute adaptive_avg_pool1d
adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
adaptive_max_pool3d affine_grid_generator all alpha_dropout amax amin aminmax any arange
arccos arccosh arcsin arcsinh arctan arctan2 arctanh argmax argmin argsort as_strided_scatter
avg_pool1d avg_pool2d avg_pool3d batch_norm bernoulli bincount block_diag broadcast_tensors
bucketize cartesian_prod cat channel_shuffle col2im column_stack combinations complex concat
concatenate constant_pad_nd copy cosine_similarity count_nonzero cross cummax cummin cumprod
cumsum diag diag_embed diagflat diagonal_scatter diff dist divide dropout dstack embedding
embedding_bag empty empty_like empty_permuted empty_strided eye feature_alpha_dropout
feature_dropout fill fix flip fliplr flipud floor_divide frobenius_norm full full_like gather
glu greater greater_equal grid_sampler grid_sampler_2d grid_sampler_3d group_norm hardswish
hstack im2col index index_add index_fill index_put index_reduce index_select instance_norm
isclose isin kthvalue layer_norm less less_equal lift lift_fresh_copy linspace log_sigmoid
log_softmax logcumsumexp logspace logsumexp masked_fill masked_scatter masked_select max
max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d
max_pool3d_with_indices max_unpool2d max_unpool3d mean median meshgrid min mode msort multiply
nanmean nanmedian nansum native_batch_norm native_channel_shuffle native_dropout
native_group_norm native_layer_norm negative new_empty new_empty_strided new_full new_ones
new_zeros nonzero norm normal not_equal one_hot ones ones_like outer pad pad_sequence
pixel_shuffle pixel_unshuffle prelu prod rand rand_like randint randn randn_like randperm
range reflection_pad1d reflection_pad2d reflection_pad3d renorm repeat repeat_interleave
replication_pad1d replication_pad2d replication_pad3d rms_norm roll rot90 row_stack rsub
scalar_tensor scatter scatter_add scatter_reduce searchsorted select_scatter slice_scatter
softmax sort stack std std_mean subtract sum sum_to_size take take_along_dim tile topk trace
tril tril_indices triu triu_indices true_divide type_as unfold unique_consecutive
unsafe_chunk unsafe_split unsafe_split_with_sizes upsample_bicubic2d upsample_bilinear2d
upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d
upsample_trilinear3d var var_mean vstack where zeros zeros_like _upsample_bicubic2d_aa
_upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
_upsample_nearest_exact3d __and__ __or__ __xor__ sym_size numel
"""
_NO_CONTRACTION = frozenset(_NAMES.split())


def macs(graph: Graph, op: Op, size_of: SizeOf) -> Any:
    """Multiply-accumulates of one run of an op.

    Args:
        graph: the graph that holds the op, typed.
        op: an op of it.
        size_of: what a size counts as.

    Returns:
        A number or an expression, 0 for what contracts nothing, None where no rule is known.
    """
    rule = _rule(op)
    if rule is not None:
        return rule(Call(graph, op, size_of))
    return 0 if _contracts_nothing(op.kind) else None


def _rule(op: Op) -> Callable[[Call], Any] | None:
    if op.kind in RULES or op.role is None:
        return RULES.get(op.kind)
    return ROLES[op.role]


@cache
def _contracts_nothing(kind: str) -> bool:
    if kind in LAYERS:  # of a plugin: nobody here knows what it computes
        return False
    target = overload(kind)
    namespace, _, rest = kind.partition(".")
    if namespace == "quantized_decomposed":  # quantize and dequantize
        return True
    if namespace != "aten" or not isinstance(target, torch._ops.OpOverload):
        return False
    tagged = torch.Tag.pointwise in target.tags or torch.Tag.reduction in target.tags
    view = any(returned.alias_info is not None for returned in target._schema.returns)
    return tagged or view or rest.partition(".")[0] in _NO_CONTRACTION


def multiplies(op: Op) -> bool:
    """Is it known that the op multiplies and sums?"""
    return _rule(op) not in (None, _free)


def is_counted(op: Op) -> bool:
    """Is it known what the op multiplies?"""
    return _rule(op) is not None or _contracts_nothing(op.kind)
