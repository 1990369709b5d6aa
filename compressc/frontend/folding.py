"""Weights that a model computes from its own tensors alone become weights that a layer owns.

Weight norm, spectral norm, masks, LoRA, factorized and scaled weights, weight standardization: the
graph then has a call with a computed operand where every pass looks for a layer. All that operand
depends on is there when the model is read, so it is computed once, here. Only what a layer reads as
its weight is folded. What is read as data (positions, masks, attention biases looked up in a table)
stays as it is written: no pass gains from folding it, and a table is smaller than what is looked
up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from compressc.frontend.computed import (
    FACTORS,
    HELD,
    WEIGHT_LISTS,
    Weight,
    call_arguments,
    computed_weights,
    evaluate_weights,
    fixed_values,
    held_tensor,
    op_tensors,
    weight_operands,
)
from compressc.frontend.importer import erase_dead
from compressc.frontend.raising import raise_call
from compressc.frontend.recurrent import raise_recurrent
from compressc.ir import Graph, Op, Ref, Tensor, TensorType, TupleType
from compressc.ir.ops import map_arg


def fold_weights(graph: Graph) -> tuple[str, ...]:
    """Compute the weights that follow from parameters and buffers alone; make layers of their ops.

    Recurrent calls become layers here, too: their weights come as a list, of held tensors by now.

    Equal expressions give one tensor, so what was tied by them stays tied.

    Args:
        graph: as the importer made it; changed in place.

    Returns:
        Notes on what was folded, what grew or is no longer tied by it, and what was left.
    """
    fixed = fixed_values(graph)
    calls, left = computed_weights(graph, fixed)
    notes: list[str] = []
    if calls:
        folder = _Folder(graph, evaluate_weights(graph, fixed, calls))
        for name in calls:
            folder.fold(graph[name])
        erase_dead(graph)
        folder.raise_freed_products()
        erase_dead(graph)
        notes += folder.notes()
    raise_recurrent(graph)
    erase_dead(graph)
    if left:
        parts = [f"{name} {growth:.0f} times" for name, growth in left.items()]
        notes.append(f"weights left computed, as they would take more bytes: {_listed(parts)}")
    return tuple(notes)


_NAMED = 4


class _Folder:
    """Gives ops their computed weights, and knows what has become of each."""

    def __init__(self, graph: Graph, weights: dict[str, Weight]) -> None:
        self.graph, self.weights = graph, weights
        self.tensors = {op.name: held_tensor(op) for op in graph if op.kind in HELD}
        self.transposed: dict[int, nn.Parameter] = {}

    def fold(self, op: Op) -> None:
        """Make a layer of an op, or give it its weights where there is no layer for it."""
        read = weight_operands(op)
        weights = [self.weights[name] for name in read if name in self.weights]
        if op.kind in WEIGHT_LISTS or self._become_layer(op, read):
            if op.kind in WEIGHT_LISTS:
                self._hold(op)
            for weight in weights:
                weight.readers.append(op.name)

    def _tensor(self, name: str) -> torch.Tensor:
        return self.weights[name].value if name in self.weights else self.tensors[name]

    def _hold(self, op: Op) -> None:
        """Let a call read computed weights as parameters."""
        held: dict[str, Ref] = {}

        def change(arg: Any) -> Any:
            if not isinstance(arg, Ref) or arg.name not in self.weights:
                return arg
            if arg.name not in held:
                name, value = self.graph.fresh_name(arg.name), self.weights[arg.name].value
                type_ = TensorType(value.dtype, tuple(value.shape))
                twin = Op(name, "parameter", layer=Tensor(value), type=type_, lineage=(name,))
                held[arg.name] = Ref(self.graph.insert_before(op.name, twin).name)
            return held[arg.name]

        self.graph.set_inputs(op.name, map_arg(op.args, change))

    def _become_layer(self, op: Op, read: Sequence[str]) -> bool:
        """Raise a call in place, with tensors for the operands it reads as weights."""
        bound = call_arguments(op)
        for name, value in list(bound.items()):
            if isinstance(value, Ref):
                type_ = self.graph[value.name].type
                bound[f"#{name}"] = len(type_.shape) if isinstance(type_, TensorType) else 0
                bound[name] = self._tensor(value.name) if value.name in read else value
        factor = bound.get(FACTORS.get(op.kind, ""))
        if isinstance(factor, torch.Tensor) and factor.dim() == 2:
            bound["#weight"] = self._transposed(factor)
        results = self.graph.users(op.name) if isinstance(op.type, TupleType) else []
        bound["#results"] = {user.args[1] for user in results}
        raised = raise_call(op.kind, bound)
        if raised is None:
            return False
        kind, layer, operands = raised
        op.kwargs = {}
        self.graph.set_layer(op.name, layer, kind)
        self.graph.set_inputs(op.name, tuple(operands))
        if isinstance(op.type, TupleType):  # the layer is the first of the call's results
            self.graph.set_type(op.name, op.type.items[0])
            for user in results:
                self.graph.redirect(user.name, op.name)
        return True

    def _transposed(self, factor: torch.Tensor) -> nn.Parameter:
        """The same view for the same factor, so that products that share it stay tied."""
        if id(factor) not in self.transposed:
            view = nn.Parameter(factor.detach().t(), requires_grad=factor.is_floating_point())
            self.transposed[id(factor)] = view
        return self.transposed[id(factor)]

    def raise_freed_products(self) -> None:
        """Make layers of `x @ w`, where `w` was read otherwise only by what has been folded."""
        sources = {name for weight in self.weights.values() for name in weight.sources}
        for name in sources & self.tensors.keys():
            users = self.graph.users(name) if name in self.graph else []
            if all(u.kind in FACTORS and weight_operands(u)[:1] == [name] for u in users):
                for user in users:
                    self._become_layer(user, weight_operands(user))

    def notes(self) -> Iterator[str]:
        """What was folded, and what was tied before."""
        made_of: dict[str, dict[str, None]] = {}
        for weight in dict.fromkeys(self.weights.values()):
            for reader in weight.readers[:1]:
                made_of.setdefault(reader, {}).update(dict.fromkeys(weight.sources))
        if made_of:
            parts = [f"{name} (from {_listed(list(found))})" for name, found in made_of.items()]
            yield f"weights computed from others were computed once, at load: {_listed(parts)}"
        if untied := list(self._untied(made_of)):
            yield f"no longer tied, so passes may move them apart: {_listed(untied)}"

    def _untied(self, made_of: Mapping[str, Iterable[str]]) -> Iterator[str]:
        """Layers with a weight made of a tensor that is still read by others."""
        live: dict[int, str] = {}
        for op in self.graph:
            for tensor in op_tensors(op):
                live.setdefault(id(tensor), op.name)
        for name, sources in made_of.items():
            for source in sources:
                if other := live.get(id(self.tensors[source])):
                    yield f"{name} with {other}"


def _listed(parts: Sequence[str]) -> str:
    more = f", and {len(parts) - _NAMED} more" if len(parts) > _NAMED else ""
    return ", ".join(parts[:_NAMED]) + more
