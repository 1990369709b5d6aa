"""Operands that follow from a model's own tensors alone, where a layer would read its weight."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import networkx as nx
import sympy
import torch
from torch import nn

from compressc.frontend.raising import RULES
from compressc.ir import Graph, Op, Ref, Tensor, layer_tensors, lower
from compressc.ir.ops import map_arg, overload
from compressc.ir.recurrent import CALLS
from compressc.quiet import quiet

HELD = ("parameter", "constant")
#: Products: the operand whose transpose is the weight of a linear layer.
FACTORS = {"aten.matmul": "other", "aten.mm": "mat2", "aten.addmm": "mat2"}
#: Recurrent calls: the argument that lists their weights.
WEIGHT_LISTS = dict.fromkeys(CALLS, "params")
#: A weight stays computed where it would take so many times the bytes of its sources (an int4
#: weight unpacked takes 8 times), unless it is small.
_MOST_GROWTH, _SMALL = 8, 1 << 20


@dataclass(eq=False)
class Weight:
    """A computed weight.

    Attributes:
        sources: the held ops it follows from.
        value: what it is.
        readers: the ops it has been given to.
    """

    sources: tuple[str, ...]
    value: torch.Tensor
    readers: list[str] = field(default_factory=list)


# ---- what is fixed, and where it is read as a weight ---------------------------------------------


def fixed_values(graph: Graph) -> dict[str, Hashable]:
    """Ops whose value is the same at every call -> a key that is equal for equal expressions."""
    found: dict[str, Hashable] = {}

    def key_of(arg: Any) -> Any:
        return found[arg.name] if isinstance(arg, Ref) else arg

    for op in graph:
        tensors = tuple(map(id, op_tensors(op)))
        if op.kind in HELD:
            found[op.name] = (op.kind, tensors)
        elif op.kind != "input" and found.keys() >= set(op.inputs) and _is_pure(op):
            arguments = repr(map_arg((op.args, op.kwargs), key_of))
            found[op.name] = hash((op.kind, repr(op.layer), tensors, arguments))
    return found


def _is_pure(op: Op) -> bool:
    """Neither random, nor of an open size, nor quantized (whose point is to stay so)."""
    if any(isinstance(leaf, sympy.Expr) for leaf in _leaves((op.args, op.kwargs))):
        return False
    if op.layer is not None or op.kind == "getitem":
        return True
    target = overload(op.kind)
    tags = target.tags if isinstance(target, torch._ops.OpOverload) else ()
    made = op.kind.startswith(("aten.empty", "quantized_decomposed."))
    return torch.Tag.nondeterministic_seeded not in tags and not made


def _leaves(arg: Any) -> Iterator[Any]:
    if isinstance(arg, tuple | list):
        for item in arg:
            yield from _leaves(item)
    elif isinstance(arg, Mapping):
        yield from _leaves(tuple(arg.values()))
    else:
        yield arg


def computed_weights(
    graph: Graph, fixed: Mapping[str, Hashable]
) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Where weights are computed, but not inside of what is itself folded.

    Returns:
        Ops that read computed weights -> the names of these; ops that read one which would take
        too many times the bytes of its sources -> how many times.
    """
    found: dict[str, list[str]] = {}
    left: dict[str, float] = {}
    needed = set(graph.output_names)
    layers = {id(t) for op in graph if op.kind not in HELD for t in op_tensors(op)}
    for op in reversed(list(graph)):
        if op.name not in needed:
            continue
        read = weight_operands(op)
        computed = [name for name in read if graph[name].kind not in HELD]
        if op.kind in FACTORS and read and _is_tied_factor(graph, read[0], layers):
            computed.append(read[0])
        if computed and all(name in fixed for name in read):
            if growth := max(_excess(graph, name) for name in computed):
                left[op.name] = growth
            else:
                found[op.name] = computed
                needed.update(name for name in op.inputs if name not in read)
                continue
        needed.update(op.inputs)
    return dict(reversed(found.items())), left


def _excess(graph: Graph, name: str) -> float:
    """How many times the bytes of its sources a value takes, where that is too many; else 0."""
    type_ = graph.type_of(name)
    size = type_.numel({}) * type_.dtype.itemsize
    above = nx.ancestors(graph.dag, name)
    sources = {id(t): t.nbytes for source in above for t in op_tensors(graph[source])}
    growth = size / max(1, sum(sources.values()))
    return growth if sources and growth > _MOST_GROWTH and size > _SMALL else 0


def op_tensors(op: Op) -> list[torch.Tensor]:
    """The tensors of an op's layer."""
    return [] if op.layer is None else [tensor for _, tensor in layer_tensors(op.layer)]


def _is_tied_factor(graph: Graph, name: str, layers: set[int]) -> bool:
    """`x @ w` where `w` is a layer's weight, too, which holds it the other way round."""
    held = graph[name].kind in HELD and id(held_tensor(graph[name])) in layers
    return held and all(weight_operands(user)[:1] == [name] for user in graph.users(name))


def weight_operands(op: Op) -> list[str]:
    """The values that an op reads as its weights."""
    if op.layer is not None or op.kind not in RULES.keys() | WEIGHT_LISTS.keys():
        return []
    bound = call_arguments(op)
    if op.kind in WEIGHT_LISTS:
        values = bound[WEIGHT_LISTS[op.kind]]
    else:
        factor = FACTORS.get(op.kind, "")
        tensors = RULES[op.kind].tensors.values()  # the weight first
        values = [bound[factor if source == "#weight" else source] for source in tensors]
    return list(dict.fromkeys(value.name for value in values if isinstance(value, Ref)))


def call_arguments(op: Op) -> dict[str, Any]:
    """The arguments of an ATen call by their names in its schema."""
    arguments = overload(op.kind)._schema.arguments  # type: ignore[attr-defined]
    bound = {a.name: a.default_value for a in arguments if a.has_default_value()}
    return bound | dict(zip((a.name for a in arguments), op.args, strict=False)) | op.kwargs


# ---- folding -------------------------------------------------------------------------------------


def evaluate_weights(
    graph: Graph, fixed: Mapping[str, Hashable], calls: Mapping[str, Sequence[str]]
) -> dict[str, Weight]:
    """Run the part of the graph that makes these values; equal expressions share one value."""
    firsts: dict[Hashable, str] = {}
    chosen = {n: firsts.setdefault(fixed[n], n) for names in calls.values() for n in names}
    above = {name: nx.ancestors(graph.dag, name) | {name} for name in firsts.values()}
    wanted = set().union(*above.values())
    part = Graph("weights")
    for op in graph:
        if op.name in wanted:
            part.append(replace(op))
    part.outputs = tuple(map(Ref, above))
    with quiet(), torch.no_grad():
        values = lower(part)()
    found = {
        name: _weight([op.name for op in part if op.kind in HELD and op.name in names], value)
        for (name, names), value in zip(above.items(), values, strict=True)
    }
    return {name: found[first] for name, first in chosen.items()}


def _weight(sources: Sequence[str], value: torch.Tensor) -> Weight:
    """A value in memory of its own, in the layout it was computed in: layout decides bits."""
    owned = nn.Parameter(value.detach().clone(), requires_grad=value.is_floating_point())
    return Weight(tuple(sources), owned)


def held_tensor(op: Op) -> torch.Tensor:
    """The tensor of a `parameter` or `constant`."""
    assert isinstance(op.layer, Tensor)
    return op.layer.value
