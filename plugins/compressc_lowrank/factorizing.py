"""Taking one layer of a graph apart."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from compressc.editing import Stage, expand
from compressc.ir import Graph, Op, TensorType
from compressc.pipeline import Context
from compressc_lowrank.collecting import Inputs
from compressc_lowrank.matrices import bias_names, matrix_of, shift_bias
from compressc_lowrank.planning import Plan
from compressc_lowrank.seen import Seen, weighed


def seen_by(graph: Graph, op: Op, inputs: Inputs | None) -> Seen | None:
    """What a layer is given; around the mean where its bias can take up the mean of an error."""
    return None if inputs is None else inputs.of(op, centred=has_own_bias(graph, op))


def has_own_bias(graph: Graph, op: Op) -> bool:
    """Whether a layer has a bias that no other one shares."""
    names = bias_names(op.layer)
    return bool(names) and all(len(graph.holders(getattr(op.layer, n))) == 1 for n in names)


def factorize(graph: Graph, op: Op, plan: Plan, inputs: Inputs | None, ctx: Context) -> None:
    """Put the chain of a plan in the place of a layer, with a note of what it keeps.

    Args:
        graph: edited in place.
        op: the layer.
        plan: for it.
        inputs: what layers are given, where factors are chosen by that.
        ctx: of the pass.
    """
    layer: Any = op.layer
    seen = seen_by(graph, op, inputs)
    chain = plan.scheme.chain(layer, plan.ranks, seen)
    *front, last = chain.links
    moved = plan.scheme.moved(layer)
    stages = [
        Stage(link.suffix, link.layer, _type(graph, op, link.layer, moved[i]), link.kind)
        for i, link in enumerate(front)
    ]
    lost = matrix_of(layer).double() - chain.matrix
    if seen is not None and seen.mean is not None:
        shift_bias(last.layer, lost @ seen.mean)
    kept = 1 - _energy(op, lost, seen) / max(_energy(op, matrix_of(layer).double(), seen), 1e-30)
    expand(graph, op.name, stages, last.layer, last.kind)
    of = "energy" if seen is None else "energy of its results"
    ctx.note(op.name, f"rank {plan} keeps {kept:.1%} of the {of}")


def _energy(op: Op, matrix: Tensor, seen: Seen | None) -> float:
    wide = matrix.T if op.role == "embedding" else matrix
    return float(weighed(wide, seen).square().sum())


def _type(graph: Graph, op: Op, link: Any, moved: int) -> TensorType:
    """Of the result of a link in front of the last one."""
    source = graph.type_of(op.inputs[0])
    if op.role == "recurrent":  # gives a sequence, and states beside it
        return TensorType(source.dtype, (*source.shape[:-1], link.weight.shape[0]))
    assert isinstance(op.type, TensorType)
    shape = list(op.type.shape)
    dims = len(getattr(link, "kernel_size", ()))
    if not dims:
        shape[-1] = link.weight.shape[1 if isinstance(link, nn.Embedding) else 0]
        return TensorType(op.type.dtype, tuple(shape))
    shape[-dims - 1] = link.out_channels
    for dim in range(moved - dims, 0):
        shape[dim] = source.shape[dim]
    return TensorType(op.type.dtype, tuple(shape))
