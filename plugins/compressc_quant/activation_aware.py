"""Scaling up the columns of weights that large activations multiply, before they are rounded.

Lin et al. 2023, "AWQ" (arXiv 2306.00978): a column times s, and what it multiplies divided by s,
computes the same, and the error of rounding that column counts 1/s as much. s = a^alpha, where a is
how large the activations are (here the root of their second moments) and alpha is searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from compressc.ir import Graph, Op, Ref
from compressc.ir.number_forms import NumberForm
from compressc.ir.ops import map_arg
from compressc_quant.rounding import to_nearest
from compressc_quant.scaling import scaled

#: Exponents that are tried; 0 leaves the columns as they are.
_EXPONENTS = tuple(0.05 * step for step in range(20))
#: Factors are kept within this range and its inverse.
_LARGEST = 64.0


def scale_columns(
    graph: Graph, ops: Sequence[Op], forms: Sequence[NumberForm], moment: Tensor
) -> bool:
    """Scale the columns of linear layers that read one value, where the loss gets smaller.

    Args:
        graph: edited in place.
        ops: all linear layers that read the value.
        forms: what each will be rounded to.
        moment: f64[count, count], second moments of the value.

    Returns:
        Whether anything was scaled.
    """
    factor = _best(ops, forms, moment)
    if factor is None:
        return False
    source = ops[0].inputs[0]
    for op in ops:
        layer: Any = op.layer
        layer._parameters["weight"] = nn.Parameter(layer.weight.detach() * factor)
    value = scaled(graph, source, 1 / factor, len(ops))
    for op in ops if value != source else ():
        change = map_arg(op.args, lambda a: Ref(value) if a == Ref(source) else a)
        graph.set_inputs(op.name, change)
    return True


def _best(ops: Sequence[Op], forms: Sequence[NumberForm], moment: Tensor) -> Tensor | None:
    layers: list[Any] = [op.layer for op in ops]
    weights = [layer.weight.detach() for layer in layers]
    size = moment.diagonal().sqrt().float()
    if not bool((size > 0).any()):
        return None
    size = size.clamp(min=float(size[size > 0].min()))
    best, least = None, float("inf")
    for exponent in _EXPONENTS:
        factor = size**exponent
        factor = factor / (factor.max() * factor.min()).sqrt()
        factor = factor.clamp(1 / _LARGEST, _LARGEST)
        loss = 0.0
        for weight, form in zip(weights, forms, strict=True):
            error = to_nearest(weight * factor, form).floats() / factor - weight
            loss += float(((error.double() @ moment) * error).sum())
        if loss < least:
            best, least = (factor if exponent else None), loss
    return best
