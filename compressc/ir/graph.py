"""The graph: an ordered DAG of ops, edited through methods that carry lineage and count edits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import networkx as nx
import torch
from torch import nn

from compressc.collecting import collector_paused
from compressc.errors import CompresscError
from compressc.ir.layer_building import copy_layer, layer_tensors
from compressc.ir.ops import Arg, Op, Ref, map_arg, refs_of
from compressc.ir.printer import print_graph
from compressc.ir.types import Size, TensorType, ValueType

_END = ""  # sentinel of the linked order; no op has the empty name


class Graph:
    """An ordered DAG of `Op`s in a `networkx.MultiDiGraph` (multi: `a*a` is two edges).

    Attributes:
        name: what it prints as.
        dag: the graph; node -> op in `dag.nodes[name]["op"]`, one edge per operand, keyed by its
            position. Read it freely with networkx; change it only through the methods here.
        outputs: what the model returns: a reference, or a tuple or dict of them.
        widths: value of each width symbol that sizes are written with (`w0`: 4 heads, say).
        limits: least and largest size of an open dimension, where the model sets any
            (a table of 512 positions takes sequences of 512 at most).
        edits: how often each editing method ran; a pass cannot lie about having changed something.
    """

    def __init__(self, name: str = "model") -> None:
        self.name = name
        self.dag = nx.MultiDiGraph()
        self.outputs: Arg = ()
        self.widths: dict[str, int] = {}
        self.limits: dict[str, tuple[int, int | None]] = {}
        self.edits: Counter[str] = Counter()
        self._numbered: dict[str, int] = {}  # stem -> names up to `stem_<number>` are all in use
        self._next: dict[str, str] = {_END: _END}
        self._previous: dict[str, str] = {_END: _END}

    # ---- reading -------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Op]:
        """The ops in execution order; the op at hand may be erased or replaced meanwhile."""
        name = self._next[_END]
        while name != _END:
            following = self._next[name]
            yield self.dag.nodes[name]["op"]
            name = following

    def __len__(self) -> int:
        return len(self.dag)

    def __contains__(self, name: object) -> bool:
        return name in self.dag

    def __getitem__(self, name: str) -> Op:
        """The op of that name.

        Raises:
            CompresscError: CC400 where there is none.
        """
        try:
            op: Op = self.dag.nodes[name]["op"]
        except KeyError:
            raise CompresscError("CC400", f"the graph has no op '%{name}'") from None
        return op

    @property
    def inputs(self) -> list[Op]:
        """The model's inputs, in order."""
        return [op for op in self if op.kind == "input"]

    @property
    def output_names(self) -> list[str]:
        """Names of the returned values, flattened."""
        return [ref.name for ref in refs_of(self.outputs)]

    def users(self, name: str) -> list[Op]:
        """The ops that read a value, each once."""
        return [self.dag.nodes[user]["op"] for user in self.dag.successors(name)]

    def type_of(self, name: str) -> TensorType:
        """The tensor type of a value.

        Raises:
            CompresscError: CC400 where the value is a tuple or untyped.
        """
        type_ = self[name].type
        if not isinstance(type_, TensorType):
            raise CompresscError("CC400", "a tensor is wanted", got=str(type_), where=f"%{name}")
        return type_

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every parameter and buffer by its text name (`conv1.weight`); tied ones once."""
        found: dict[str, torch.Tensor] = {}
        for names, tensor in self._named_tensors():
            found.setdefault(names, tensor)
        return found

    def tensor_names(self) -> dict[int, str]:
        """`id(tensor)` -> text name: the first op that holds a tensor gives it its name."""
        return {id(tensor): name for name, tensor in self._named_tensors()}

    def _named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        seen: set[int] = set()
        for op in self:
            if op.layer is None:
                continue
            for local, tensor in layer_tensors(op.layer):
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield f"{op.name}.{local}", tensor

    def holders(self, tensor: torch.Tensor) -> list[Op]:
        """The ops whose layer holds that very tensor; more than one where it is tied."""
        return [
            op
            for op in self
            if op.layer is not None and any(held is tensor for _, held in layer_tensors(op.layer))
        ]

    def size_env(self, **dimensions: int) -> dict[str, int]:
        """Symbol values for `evaluate`: the widths, and the given dimensions."""
        return {**self.widths, **dimensions}

    def within_limits(self, dimension: str, size: int) -> int:
        """The size, or the nearest one that the model takes for this open dimension."""
        least, most = self.limits.get(dimension, (1, None))
        return max(least, size if most is None else min(size, most))

    # ---- building ------------------------------------------------------------------------------

    def fresh_name(self, stem: str) -> str:
        """`stem` made a legal op name that no op has yet; the first free number is appended."""
        stem = re.sub(r"[^A-Za-z0-9_.]", "_", stem).strip(".") or "op"
        if stem not in self.dag:
            return stem
        number = self._numbered.get(stem, 0) + 1
        while f"{stem}_{number}" in self.dag:
            number += 1
        self._numbered[stem] = number - 1
        return f"{stem}_{number}"

    def _free_name(self, name: str) -> None:
        """Let `fresh_name` find the name of an erased op again: names follow from the ops alone."""
        stem, _, number = name.rpartition("_")
        if number.isdecimal() and stem in self._numbered:
            self._numbered[stem] = min(self._numbered[stem], int(number) - 1)

    def append(self, op: Op) -> Op:
        """Add an op at the end. Its operands must be there already.

        Raises:
            CompresscError: CC400 for a name in use or an unknown operand.
        """
        self._link(op, self._previous[_END])
        return op

    def _link(self, op: Op, after: str) -> None:
        if op.name in self.dag or not op.name:
            raise CompresscError("CC400", f"op name '%{op.name}' is in use")
        self._check_operands(op.name, op.inputs)
        self.dag.add_node(op.name, op=op)
        self._add_edges(op)
        following = self._next[after]
        self._next[after], self._next[op.name] = op.name, following
        self._previous[following], self._previous[op.name] = op.name, after

    def _connect(self, op: Op) -> None:
        self.dag.remove_edges_from(list(self.dag.in_edges(op.name, keys=True)))
        self._add_edges(op)

    def _add_edges(self, op: Op) -> None:
        for position, source in enumerate(op.inputs):
            self.dag.add_edge(source, op.name, key=position)

    def _check_operands(self, name: str, sources: Iterable[str]) -> None:
        for source in sources:
            if source not in self.dag or source == name:
                raise CompresscError("CC400", f"'%{name}' reads '%{source}', which is not there")

    # ---- editing: each method carries lineage and counts itself ---------------------------------

    def insert_after(self, anchor: str, op: Op) -> Op:
        """Insert an op behind another; without a lineage of its own it takes the anchor's."""
        if not op.lineage:
            op.lineage = self[anchor].lineage
        self._link(op, anchor)
        self.edits["insert"] += 1
        return op

    def insert_before(self, anchor: str, op: Op) -> Op:
        """Insert an op in front of another; without a lineage of its own it takes the anchor's."""
        if not op.lineage:
            op.lineage = self[anchor].lineage
        self._link(op, self._previous[anchor])
        self.edits["insert"] += 1
        return op

    def set_inputs(self, name: str, args: tuple[Arg, ...]) -> None:
        """Give an op other operands."""
        op = self[name]
        self._check_operands(name, [ref.name for ref in refs_of((args, op.kwargs))])
        op.args = args
        self._connect(op)
        self.edits["set_inputs"] += 1

    def redirect(self, old: str, new: str, *, but: Iterable[str] = ()) -> None:
        """Make every reader of `old` (and the outputs) read `new`, except the ops in `but`."""

        def change(arg: Arg) -> Arg:
            return Ref(new) if arg == Ref(old) else arg

        skipped = set(but)
        for user in self.users(old):
            if user.name not in skipped:
                user.args, user.kwargs = map_arg(user.args, change), map_arg(user.kwargs, change)
                self._connect(user)
        self.outputs = map_arg(self.outputs, change)
        self.edits["redirect"] += 1

    def replace(self, old: str, new: str) -> None:
        """Let `new` take over everything `old` did, and erase `old`.

        `new` inherits the lineage of `old`: it now stands for the same teacher value.
        """
        op, successor = self[old], self[new]
        successor.lineage = tuple(dict.fromkeys((*successor.lineage, *op.lineage)))
        successor.kept = dict(op.kept)
        self.redirect(old, new, but=[new])
        self.erase(old)
        self.edits["replace"] += 1

    def erase(self, name: str) -> None:
        """Remove an op that nothing reads.

        Raises:
            CompresscError: CC400 where something still reads it.
        """
        op = self[name]
        readers = [user.name for user in self.users(name)]
        if readers or name in self.output_names:
            raise CompresscError("CC400", f"'%{op.name}' is still read", got=", ".join(readers))
        before, following = self._previous.pop(name), self._next.pop(name)
        self._next[before], self._previous[following] = following, before
        self.dag.remove_node(name)
        self._free_name(name)
        self.edits["erase"] += 1

    def set_layer(self, name: str, layer: nn.Module, kind: str | None = None) -> None:
        """Give a layer op another module (and kind); its types are re-derived by the caller."""
        op = self[name]
        op.layer, op.kind = layer, kind or op.kind
        self.edits["set_layer"] += 1

    def set_width(self, symbol: str, value: int) -> None:
        """Change the value of a width symbol; every size written with it follows."""
        if self.widths[symbol] != value:
            self.widths[symbol] = value
            self.edits["set_width"] += 1

    def narrow(self, name: str, dim: int, kept: Iterable[int]) -> None:
        """Record that `kept` indices of a dimension of a value are left, as teacher indices."""
        op = self[name]
        before = op.kept.get(dim)
        op.kept[dim] = tuple(before[i] if before is not None else i for i in kept)

    def set_type(self, name: str, type_: ValueType) -> None:
        """Record the type of a value."""
        self[name].type = type_

    # ---- copies --------------------------------------------------------------------------------

    def copy(self) -> Graph:
        """A deep copy; tied tensors stay tied, edits start at zero."""
        return self._copy({})

    def with_weights(self, of: Mapping[str, torch.Tensor]) -> Graph:
        """A copy that holds other tensors, by the names of `tensors()`; left out is copied."""
        others = {
            id(tensor): _as_kind(of[name], tensor)
            for name, tensor in self._named_tensors()
            if name in of
        }
        return self._copy(others)

    def put_weights(self, of: Mapping[str, torch.Tensor]) -> None:
        """As `with_weights`, in place; what nobody else holds of those before is given back."""
        twin = self.with_weights(of)
        for op in self:
            op.layer = twin[op.name].layer

    def become(self, other: Graph) -> None:
        """Take over all that another graph is, but for the count of edits; it is not to be used
        afterwards."""
        edits = self.edits
        self.__dict__.update(other.__dict__)
        self.edits = edits

    @collector_paused()
    def _copy(self, memo: dict[int, Any]) -> Graph:
        """A copy that takes what stands in the memo in the place of the tensor of that `id`."""
        twin = Graph(self.name)
        twin.outputs, twin.widths = self.outputs, dict(self.widths)
        twin.limits = dict(self.limits)
        for op in self:
            twin.append(
                replace(
                    op,
                    layer=None if op.layer is None else copy_layer(op.layer, memo),
                    kwargs=dict(op.kwargs),
                    kept=dict(op.kept),
                )
            )
        return twin

    def __str__(self) -> str:
        """The text form; see `compressc.ir.printer`."""
        return print_graph(self)


def _as_kind(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    is_parameter = isinstance(like, nn.Parameter)
    return nn.Parameter(tensor, like.requires_grad) if is_parameter else tensor


def open_dimensions(graph: Graph) -> list[str]:
    """The symbols in the sizes of the inputs, in order of the alphabet."""
    types = (op.type for op in graph.inputs)
    shapes = [type_.shape for type_ in types if isinstance(type_, TensorType)]
    sizes = [size for shape in shapes for size in shape if not isinstance(size, int)]
    return sorted({str(name) for size in sizes for name in size.free_symbols})


def dimension_symbols(graph: Graph) -> dict[str, tuple[str, int]]:
    """Each open dimension -> the (input, dimension) whose size it is."""
    found: dict[str, tuple[str, int]] = {}
    for op in graph.inputs:
        sizes: Mapping[int, Size] = dict(enumerate(graph.type_of(op.name).shape))
        for dim, size in sizes.items():
            if not isinstance(size, int) and size.is_Symbol:
                found.setdefault(str(size), (op.name, dim))
    return found
