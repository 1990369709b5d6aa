"""Expanding: one layer becomes a chain of layers whose last one stands in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from compressc.ir import Graph, Op, Ref, TensorType


@dataclass(frozen=True)
class Stage:
    """A layer in front of the last one of a chain.

    Attributes:
        suffix: of its name: `v` for `%fc.v`.
        layer: of the kind of the op that is expanded, unless `kind` says which.
        type: of its result.
        kind: of its layer; that of the op where none is given.
    """

    suffix: str
    layer: nn.Module
    type: TensorType
    kind: str = ""


def expand(
    graph: Graph, name: str, front: Sequence[Stage], last: nn.Module, kind: str = ""
) -> None:
    """Make a chain of one layer op: `front` in order, then `last` under the op's own name.

    Name, type and lineage of the op stay with the last layer, whose value stands for the same
    teacher value; those in front have its lineage, too.

    Args:
        graph: edited in place.
        name: a layer op; the chain reads its first operand, the last layer the others, too.
        front: what comes before the last layer, at least one.
        last: gives a value of the type that the op has.
        kind: of the last layer; that of the op where none is given.
    """
    op = graph[name]
    first, *others = op.args
    for stage in front:
        fresh = graph.fresh_name(f"{name}.{stage.suffix}")
        made = stage.kind or op.kind
        graph.insert_before(name, Op(fresh, made, (first,), layer=stage.layer, type=stage.type))
        first = Ref(fresh)
    graph.set_layer(name, last, kind or op.kind)
    graph.set_inputs(name, (first, *others))
