"""The `simplify` pass: fold batch norms, remove identities and dead code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from compressc.analysis.coverage import Verdict
from compressc.ir import PRODUCTS, Graph, Op, layer_tensors
from compressc.pipeline import Context, Pass

#: Told of an op and what becomes of it.
Tell = Callable[[str, Verdict], None]


class Simplify(Pass):
    """Fold batch norms into the layer before them, remove identities and dead code.

    Exact: outputs stay equal up to rounding, which the pipeline checks. For inference only: a
    folded batch norm cannot be trained any more, so this runs after `distill`.

    Legal where the layer's only reader is the batch norm.
    """

    name: ClassVar[str] = "simplify"
    effect: ClassVar[Literal["exact", "lossy"]] = "exact"
    reads_target: ClassVar[frozenset[str]] = frozenset()
    after: ClassVar[Mapping[str, str]] = {
        "distill": "training needs the batch norms and dropouts that simplify removes",
    }
    before: ClassVar[Mapping[str, str]] = {
        "quant": "a batch norm behind an int8 layer cannot be folded",
    }

    fold: bool = True
    """Fold batch norms."""

    def run(self, graph: Graph, ctx: Context) -> None:
        """Remove what computes nothing, then fold."""
        self._simplify(graph, lambda op, verdict: ctx.note(op, verdict.text))

    def coverage(self, graph: Graph, ctx: Context) -> Mapping[str, Verdict]:
        """By simplifying a copy."""
        told: dict[str, Verdict] = {op.name: Verdict.idle("nothing to simplify") for op in graph}
        self._simplify(graph.copy(), told.__setitem__)
        return told

    def _simplify(self, graph: Graph, tell: Tell) -> None:
        remove_identities(graph, tell)
        if self.fold:
            fold_batch_norms(graph, tell)
        else:
            for op in graph:
                if op.role == "batch_norm":
                    tell(op.name, Verdict.cannot("skipped folding: fold=False"))
        remove_dead_code(graph, tell)


def remove_identities(graph: Graph, tell: Tell) -> None:
    """Erase ops that return their operand in inference: dropouts, reshapes to the same shape."""
    for op in graph:
        if _hands_on(graph, op):
            source = op.args[0].name
            if graph[source].kind == "input" and op.name in graph.output_names:
                # an output that is an input has no op to stand for it
                tell(op.name, Verdict.cannot("skipped: it hands an input of the model out"))
                continue
            graph.redirect(op.name, source)
            graph.erase(op.name)
            tell(op.name, Verdict.does("removed: in inference it changes nothing"))


def _hands_on(graph: Graph, op: Op) -> bool:
    """A move that keeps dtype, shape and order: all numbers stay where they are."""
    moves = op.move not in (None, "reorder")
    return moves and graph[op.args[0].name].type == op.type


def remove_dead_code(graph: Graph, tell: Tell) -> None:
    """Erase ops that no output depends on; inputs stay."""
    for op in reversed(list(graph)):
        used = graph.users(op.name) or op.name in graph.output_names or op.kind == "input"
        if not used:
            graph.erase(op.name)
            tell(op.name, Verdict.does("removed: no output depends on it", *_tensors(op)))


def _tensors(op: Op) -> list[str]:
    return [name for name, _ in layer_tensors(op.layer)] if op.layer is not None else []


def fold_batch_norms(graph: Graph, tell: Tell) -> None:
    """`bn(conv(x))` as one conv: w' = w * f and b' = (b - mean) * f + beta, f = gamma / std."""
    for op in graph:
        if op.role != "batch_norm":
            continue
        source = graph[op.args[0].name]
        reason = _obstacle(graph, source)
        if reason:
            tell(op.name, Verdict.cannot(f"skipped folding: {reason}"))
            continue
        graph.set_layer(source.name, _folded(source.layer, op.layer))
        graph.replace(op.name, source.name)
        tell(op.name, Verdict.does("folded into the layer before it", *_tensors(op)))
        tell(source.name, Verdict.does("takes in the batch norm behind it", "weight", "bias"))


def _obstacle(graph: Graph, source: Op) -> str:
    """Why a batch norm cannot be folded into the op it reads."""
    if source.layer is None or source.role not in PRODUCTS or source.weight_form is not None:
        return f"it reads %{source.name}, which is no linear or convolution"
    weight: torch.Tensor = source.layer.weight  # type: ignore[assignment]
    if len(graph.type_of(source.name).shape) != weight.dim():
        return f"it does not run over the output channels of %{source.name}"
    if len(graph.users(source.name)) != 1 or source.name in graph.output_names:
        return f"%{source.name} is read elsewhere, too"
    tied = len(graph.holders(weight)) > 1
    return f"the weight of %{source.name} is tied to another layer" if tied else ""


@torch.no_grad()
def _folded(layer: Any, norm: Any) -> nn.Module:
    """A copy of `layer` with the batch norm in its weight and bias (computed in float64)."""
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    gain = torch.ones_like(mean) if norm.weight is None else norm.weight.double()
    shift = torch.zeros_like(mean) if norm.bias is None else norm.bias.double()
    factor = gain / torch.sqrt(variance + norm.eps)
    bias = torch.zeros_like(mean) if layer.bias is None else layer.bias.double()
    weight, dtype = layer.weight.double(), layer.weight.dtype
    shape = [1] * weight.dim()
    if getattr(layer, "transposed", False):
        # [in, out / groups, ...]: the output channels of group g are factor[g * out/groups : ...]
        per_group = factor.reshape(layer.groups, -1).repeat_interleave(
            weight.shape[0] // layer.groups, dim=0
        )
        scaled = weight * per_group.reshape(*weight.shape[:2], *shape[2:])
    else:
        scaled = weight * factor.reshape(-1, *shape[1:])
    copy = _shallow_copy(layer)
    copy.weight = nn.Parameter(scaled.to(dtype))
    copy.bias = nn.Parameter(((bias - mean) * factor + shift).to(dtype))
    folded: nn.Module = copy
    return folded


def _shallow_copy(layer: nn.Module) -> Any:
    """The same kind of module with its own table of parameters."""
    twin = layer.__class__.__new__(layer.__class__)
    twin.__dict__.update(layer.__dict__)
    twin._parameters = dict(layer._parameters)
    twin._buffers = dict(layer._buffers)
    return twin
