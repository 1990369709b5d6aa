"""`quant(mode=weights)`: weights as integers, activations left as they are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from compressc.analysis.coverage import Verdict, parameters_of
from compressc.analysis.integers import HALF_RANGE
from compressc.ir import PRODUCTS, Graph, Op
from compressc.ir.number_forms import INT8_PER_CHANNEL, UINT4, NumberForm
from compressc.ir.quantized import QUANTIZED, quantized_kind
from compressc.ir.quantized_recurrent import (
    QUANTIZED_RECURRENT,
    is_matrix,
    quantized_recurrent,
)
from compressc.pipeline import Context
from compressc_quant.activation_aware import scale_columns
from compressc_quant.moments import Inputs, inputs_of, moments
from compressc_quant.restoring import Held
from compressc_quant.rounding import Rounded, column_by_column, to_nearest
from compressc_quant.verdicts import why_float

Method = Literal["rtn", "awq", "gptq"]
#: Numbers that share a scale where nobody says how many: per bits.
_GROUPS = {4: 32, 8: None}
#: Groups are halved down to this size where they do not divide what a row has.
_LEAST_GROUP = 16
#: Moments of a layer with more inputs would fill the memory (GPTQ, AWQ).
_MOST_INPUTS = 8192
#: What awq and gptq look at.
_LOOKED_AT = ("linear", "convolution")


@dataclass(frozen=True)
class WeightOptions:
    """What the pass was told of weights."""

    bits: int
    group: int | None
    method: Method


def plan(graph: Graph, options: WeightOptions) -> dict[str, NumberForm]:
    """Op -> the form that its weight will have; the others stay as they are.

    A recurrent layer has 8 bits and a scale per row, whatever is asked for: it has no other form.
    """
    found = {
        op.name: _form(op.layer.weight, options)  # type: ignore[union-attr,arg-type]
        for op in graph
        if op.kind in QUANTIZED and (op.role in PRODUCTS or op.role == "embedding")
    }
    recurrent = (op.name for op in graph if op.kind in QUANTIZED_RECURRENT)
    return found | dict.fromkeys(recurrent, INT8_PER_CHANNEL)


def quantize_weights(
    graph: Graph, options: WeightOptions, batches: Sequence[Inputs], ctx: Context
) -> None:
    """Round the weights in place.

    Args:
        graph: float, of trained weights.
        options: bits, group and method.
        batches: inputs, for the methods that look at any.
        ctx: of the pass.
    """
    forms = plan(graph, options)
    rounder = Rounder(graph, forms)
    if options.method != "rtn":
        looked_at = [
            graph[name]
            for name in forms
            if _can_be_looked_at(graph, graph[name], options.method, ctx)
        ]
        act = rounder.scale if options.method == "awq" else rounder.spread
        for ops, moment in moments(graph, looked_at, batches, ctx):
            act(ops, moment)
    rounder.nearest()


def round_anew(
    graph: Graph,
    options: WeightOptions,
    before: Mapping[str, Held],
    only: Collection[str] | None = None,
) -> None:
    """Give rounded weights other bits, to nearest, from the floats that they were.

    Args:
        graph: with rounded weights, edited in place.
        options: bits and group.
        before: its layers as they were.
        only: ops that it is done to; None: all of them.
    """
    names = [
        op.name
        for op in graph
        if op.weight_form is not None and op.name in before and (only is None or op.name in only)
    ]
    for name in names:
        graph.set_layer(name, before[name].layer, before[name].kind)
    forms = plan(graph, options)
    Rounder(graph, {name: forms[name] for name in names}).nearest()


def round_by_data(
    graph: Graph, before: Mapping[str, Held], batches: Sequence[Inputs], ctx: Context
) -> list[str]:
    """Round rounded weights anew by GPTQ, from the floats that they were, in the same forms.

    What a layer is given is what it is given in this graph: values that are rounded, by layers that
    are.

    Args:
        graph: with rounded weights, edited in place.
        before: its layers as they were.
        batches: inputs.
        ctx: of the pass.

    Returns:
        Names of the layers that have other integers now; what is tied or too wide keeps its own.
    """
    chosen = [
        op
        for op in graph
        if op.weight_form is not None and op.name in before
        if _can_be_looked_at(graph, op, "gptq", ctx)
    ]
    rounder = Rounder(graph, {op.name: op.weight_form for op in chosen if op.weight_form})
    for ops, moment in moments(graph, chosen, batches, ctx):
        for op in ops:
            most = most_used(op)
            graph.set_layer(op.name, before[op.name].layer, before[op.name].kind)
            rounder.set(graph[op.name], partial(column_by_column, moment=moment, most=most))
    return [op.name for op in chosen]


def most_used(op: Op) -> int | None:
    """The largest integer of a weight that keeps to half its range; None: all of its form's.

    The sums of some processors would overflow with larger ones.
    """
    layer: Any = op.layer
    half = op.int8 and int(layer.weight.int().abs().max()) <= HALF_RANGE
    return HALF_RANGE if half else None


class Rounder:
    """Gives layers their rounded weights; a weight that several hold is rounded once."""

    def __init__(self, graph: Graph, forms: Mapping[str, NumberForm]) -> None:
        self.graph, self.forms = graph, forms
        self.matrices: dict[tuple[int, NumberForm], tuple[Tensor, tuple[Tensor, Tensor]]] = {}
        self.done: dict[tuple[int, NumberForm], tuple[Rounded, Any]] = {}

    def spread(self, ops: Sequence[Op], moment: Tensor) -> None:
        """GPTQ."""
        for op in ops:
            self.set(op, partial(column_by_column, moment=moment))

    def scale(self, ops: Sequence[Op], moment: Tensor) -> None:
        """AWQ; what reads the value and is no linear layer keeps it as it is."""
        if all(op.role == "linear" for op in ops):
            scale_columns(self.graph, ops, [self.forms[op.name] for op in ops], moment)
        for op in ops:
            self.set(op, partial(to_nearest, importance=moment.diagonal()))

    def nearest(self) -> None:
        """All that are left."""
        for name in self.forms:
            op = self.graph[name]
            if op.role == "recurrent":
                self.set_matrices(op, to_nearest)
            elif op.weight_form is None:
                self.set(op, to_nearest)

    def set_matrices(
        self,
        op: Op,
        rounding: Callable[[Tensor, NumberForm], Rounded],
        input: NumberForm | None = None,
    ) -> None:
        """Round the matrices of a recurrent layer; as `set`."""
        layer: Any = op.layer
        stored: dict[str, tuple[Tensor, Tensor]] = {}
        for name in matrices_of(op):
            weight = getattr(layer, name)
            key = (id(weight), INT8_PER_CHANNEL)
            if key not in self.matrices:
                rounded = rounding(weight.detach(), INT8_PER_CHANNEL)
                pair = rounded.values.to(torch.int8), rounded.scale.float().squeeze(1)
                self.matrices[key] = weight, pair
            stored[name] = self.matrices[key][1]
        made = quantized_recurrent(op.kind, layer, stored, input)
        self.graph.set_layer(op.name, made, quantized_kind(op.kind))

    def set(
        self,
        op: Op,
        rounding: Callable[[Tensor, NumberForm], Rounded],
        input: NumberForm | None = None,
    ) -> None:
        """Round the weight of one layer.

        Args:
            op: one of those that have a form.
            rounding: of a weight [rows, count].
            input: how the layer rounds what it is given; None: not at all.
        """
        layer: Any = op.layer
        form, weight = self.forms[op.name], layer.weight
        key = (id(weight), form)
        if key not in self.done:
            rounded = rounding(weight.detach().flatten(1), form)
            made = rounded.layer(op, input)
            self.done[key] = rounded, (weight, made._buffers)
        else:
            rounded, (_, stored) = self.done[key]
            made = rounded.layer(op, input)
            made._buffers.update(stored)
        self.graph.set_layer(op.name, made, quantized_kind(op.kind))


def _form(weight: Tensor, options: WeightOptions) -> NumberForm:
    wanted = options.group or _GROUPS[options.bits]
    group = None if wanted is None else _dividing(weight[0].numel(), wanted)
    if options.bits == INT8_PER_CHANNEL.bits:
        return NumberForm(INT8_PER_CHANNEL.dtype, INT8_PER_CHANNEL.axis, group)
    return NumberForm(UINT4, axis=0, group=group, zero_point=True)


def _dividing(count: int, wanted: int) -> int | None:
    """The wanted size, halved until it divides the numbers of a row; None: one group each."""
    size = wanted
    while size >= _LEAST_GROUP and count % size:
        size //= 2
    return size if size >= _LEAST_GROUP and count % size == 0 else None


def _can_be_looked_at(graph: Graph, op: Op, method: Method, ctx: Context) -> bool:
    layer: Any = op.layer
    if op.role not in _LOOKED_AT:
        return False
    if inputs_of(op) > _MOST_INPUTS:
        ctx.note(op.name, f"rounded to nearest: more than {_MOST_INPUTS} inputs")
        return False
    if method == "awq" and getattr(layer, "groups", 1) > 1:
        ctx.note(op.name, "rounded to nearest: its groups are given other inputs each")
        return False
    if len(graph.holders(layer.weight)) > 1:
        ctx.note(op.name, "rounded to nearest: its weight is tied to another layer's")
        return False
    return True


def weight_verdicts(graph: Graph, options: WeightOptions) -> dict[str, Verdict]:
    """What becomes of each op."""
    forms = plan(graph, options)
    found = {}
    for op in graph:
        if op.name in forms:
            found[op.name] = Verdict.does(f"weight as {forms[op.name]}", *matrices_of(op))
        elif parameters_of(op):
            found[op.name] = Verdict.cannot(why_whole(op, graph))
        else:
            found[op.name] = Verdict.idle("no weights")
    return found


def matrices_of(op: Op) -> tuple[str, ...]:
    """The tensors of a layer that are rounded."""
    if op.role == "recurrent":
        layer: Any = op.layer
        return tuple(name for name in layer.names() if is_matrix(name))
    return ("weight",)


def why_whole(op: Op, graph: Graph) -> str:
    """Why an op with parameters keeps them as floats."""
    return why_float(op, transformer=False, graph=graph)
