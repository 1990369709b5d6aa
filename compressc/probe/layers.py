"""The layers of a graph as they are timed: an op, what a runtime fuses to it, and its sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch

from compressc.analysis import Axis, Coupling
from compressc.analysis.signatures import Signatures
from compressc.ir import Graph, Op, TensorType, TupleType, evaluate, layer_attributes
from compressc.ir.recurrent import Recurrent
from compressc.probe.drawing import DRAWN, Draw, draw_of, in_groups
from compressc.probe.extents import Left, Variable, Variables
from compressc.probe.sketch import Sketch, described

#: What runtimes compute in the same pass as a convolution or a product in front of it.
_FUSED = frozenset({"activation", "batch_norm"})
#: Attributes of layers that are sizes: they are in the shapes.
_SIZES = frozenset(
    {"in", "out", "features", "width", "shape", "channels", "groups", "bias", "hidden"}
)
#: Ops that cost next to nothing, or nothing once a runtime has loaded the model.
_FREE = frozenset({"input", "parameter", "constant", "getitem", "dropout"})
_FREE_PACKETS = frozenset(
    f"aten.{name}"
    for name in ("view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze", "expand")
)
_LETTERS = "ABCDEFGH"


@dataclass(frozen=True)
class _Dim:
    """A dimension: its full size, and the variables whose product it follows.

    Attributes:
        apart: whether each variable is a factor of it; else it is in proportion to the only one.
    """

    full: int
    variables: tuple[int, ...]
    apart: bool = False

    def at(self, sizes: Sequence[int], full: Sequence[int]) -> int:
        size = self.full
        for place in self.variables:
            size = size * sizes[place] // full[place]
        return size

    def text(self, full: Sequence[int]) -> str:
        """`28`, `A`, and `4AB` of factors."""
        letters = "".join(_LETTERS[place] for place in self.variables)
        if not letters:
            return str(self.full)
        fixed = self.full // prod(full[place] for place in self.variables)
        return f"{fixed}{letters}" if self.apart and fixed > 1 else letters


@dataclass(frozen=True)
class Layer:
    """A layer as it is timed.

    Attributes:
        op: its name.
        fused: names of the ops behind it that are timed with it.
        signature: equal for layers that take the same time at the same sizes.
        variables: the sizes that its time depends on.
        macs: multiply-accumulates, for a layer of full size.
    """

    op: str
    fused: tuple[str, ...]
    signature: str
    variables: tuple[Variable, ...]
    macs: int
    _ops: tuple[Op, ...] = field(repr=False)
    _draws: tuple[Draw, ...] = field(repr=False)
    _reads: tuple[tuple[torch.dtype, tuple[_Dim, ...]], ...] = field(repr=False)
    _makes: tuple[_Dim, ...] = field(repr=False)
    _groups: _Dim | None = field(repr=False, default=None)

    @property
    def full(self) -> tuple[int, ...]:
        """The variables before any cut."""
        return tuple(variable.full for variable in self.variables)

    def at(self, left: Left) -> tuple[int, ...]:
        """The variables where that much of the widths is left."""
        return tuple(variable.at(left) for variable in self.variables)

    def model(self, sizes: Sequence[int]) -> tuple[bytes, list[dict[str, Any]]]:
        """An ONNX model of it at sizes of its variables, and what the model reads."""
        sketch = Sketch()
        shapes = [tuple(d.at(sizes, self.full) for d in dims) for _, dims in self._reads]
        below = getattr(self._ops[0].layer, "num_embeddings", 2)
        names = [
            sketch.read(dtype, shape, below)
            for (dtype, _), shape in zip(self._reads, shapes, strict=True)
        ]
        out = tuple(dim.at(sizes, self.full) for dim in self._makes)
        if self._groups is not None:
            shapes.append((self._groups.at(sizes, self.full),))
        result = self._draws[0](sketch, self._ops[0], names, shapes, out)
        for op, draw in zip(self._ops[1:], self._draws[1:], strict=True):
            result = draw(sketch, op, [result], [out], out)
        return sketch.model(result), sketch.inputs


@dataclass(frozen=True)
class Layers:
    """All that is timed of a graph at one size of its batch.

    Attributes:
        timed: one for each op whose time changes with some width.
        fixed: ops that are not drawn, though their time may change with a width.
    """

    timed: tuple[Layer, ...]
    fixed: tuple[str, ...]


def layers_of(graph: Graph, found: Coupling, sizes: Mapping[str, int]) -> Layers:
    """The layers of a graph.

    Args:
        graph: in float32; others are not drawn.
        found: its coupling.
        sizes: of its open dimensions.
    """
    return _Reader(graph, found, sizes).layers()


class _Reader:
    def __init__(self, graph: Graph, found: Coupling, sizes: Mapping[str, int]) -> None:
        self.graph, self.found = graph, found
        self.env = graph.size_env(**sizes)
        self.outputs = set(graph.output_names)
        self.cuttable = {
            width.axis for width in found.widths() if width.producers and not width.axis.frozen
        }
        self.signatures = Signatures(graph)
        self.groups = dict(found.groups)

    def layers(self) -> Layers:
        taken: set[str] = set()
        timed: list[Layer] = []
        fixed: list[str] = []
        for op in self.graph:
            if op.name in taken or op.kind in _FREE or op.packet in _FREE_PACKETS:
                continue
            layer = self._layer(op, taken)
            if layer is None:
                if self._moves(op):
                    fixed.append(op.name)
                continue
            taken.update(layer.fused)
            if layer.variables:
                timed.append(layer)
        return Layers(tuple(timed), tuple(fixed))

    def _layer(self, op: Op, taken: set[str]) -> Layer | None:
        draw = draw_of(op)
        read = [self.graph.type_of(name) for name in op.inputs]
        made = self.graph[op.name].type
        if isinstance(made, TupleType):
            made = made.items[0]
        if draw is None or not isinstance(made, TensorType) or made.dtype != torch.float32:
            return None
        if not all(type_.dtype in (torch.float32, torch.int64, torch.int32) for type_ in read):
            return None
        variables = Variables(self.cuttable)
        apart = in_groups(op)
        reads = tuple(
            (type_.dtype, self._dims(name, type_, variables, apart))
            for name, type_ in zip(op.inputs, read, strict=True)
        )
        makes = self._dims(op.name, made, variables, apart)
        groups = None
        if op.name in self.groups:
            layer: Any = op.layer
            groups = _Dim(layer.groups, variables.factors(self.groups[op.name]), apart=True)
        behind, drawn = self._fused(op, taken)
        full = [variable.full for variable in variables.found.values()]
        shown = ["x".join(dim.text(full) for dim in dims) for _, dims in reads]
        signature = f"{self._text(op)}{''.join('+' + self._text(one) for one in drawn)} "
        signature += f"{' '.join(shown)} -> {'x'.join(dim.text(full) for dim in makes)}"
        if groups is not None:
            signature += f" in {groups.text(full)} groups"
        return Layer(
            op.name,
            tuple(behind),
            signature,
            tuple(variables.found.values()),
            self._macs(op, makes),
            (op, *drawn),
            (draw, *(DRAWN[one.kind] for one in drawn)),
            reads,
            makes,
            groups,
        )

    def _fused(self, op: Op, taken: set[str]) -> tuple[list[str], list[Op]]:
        """Ops behind a product that are computed with it, and those of them that are drawn.

        A batch norm is folded into a convolution; an addition is made where its result is written.
        """
        behind: list[str] = []
        drawn: list[Op] = []
        products = ("convolution", "linear", "transposed_convolution")
        last = op
        while op.role in products and last.name not in self.outputs:
            users = self.graph.users(last.name)
            if len(users) != 1 or users[0].name in taken or drawn:
                break
            last = users[0]
            if last.role == "activation" and last.kind in DRAWN:
                drawn.append(last)
            elif op.role == "linear" or not (
                last.role == "batch_norm" or (last.packet == "aten.add" and len(last.inputs) == 2)
            ):
                break
            behind.append(last.name)
        return behind, drawn

    def _text(self, op: Op) -> str:
        """`conv2d(kernel=3, stride=2)`: kind and all attributes that are no sizes."""
        if op.layer is not None:
            held = {k: v for k, v in layer_attributes(op).items() if k not in _SIZES}
            return op.kind + (f"({described(held)})" if held else "")
        plain = [str(arg) for arg in op.args if isinstance(arg, int | float | str | bool | tuple)]
        plain = [text for text in plain if "Ref" not in text]
        return op.packet + (f"({', '.join(plain)})" if plain else "")

    def _dims(
        self, name: str, type_: TensorType, variables: Variables, apart: bool
    ) -> tuple[_Dim, ...]:
        axes: Sequence[Axis] = self.found.values[name]
        if axes and not isinstance(axes[0], Axis):  # of several results the first
            axes = axes[0]
        sizes = [int(evaluate(size, self.env)) for size in type_.shape]
        pairs = zip(sizes, axes, strict=True)
        if apart:
            return tuple(_Dim(size, variables.factors(axis), apart=True) for size, axis in pairs)
        found = []
        for size, axis in pairs:
            place = variables.place(axis)
            found.append(_Dim(size, () if place is None else (place,)))
        return tuple(found)

    def _macs(self, op: Op, makes: Sequence[_Dim]) -> int:
        weight = getattr(op.layer, "weight", None)
        count = prod(dim.full for dim in makes)
        if isinstance(op.layer, Recurrent):
            steps = prod(dim.full for dim in makes[:-1])
            return steps * sum(t.numel() for t in op.layer.parameters() if t.dim() > 1)
        if op.role not in ("convolution", "linear", "transposed_convolution") or weight is None:
            return count
        return count * int(prod(weight.shape[1:]))

    def _moves(self, op: Op) -> bool:
        """Whether a size of it follows a width."""
        values = self.found.values[op.name]
        axes = values if values and isinstance(values[0], Axis) else sum(values, ())
        variables = Variables(self.cuttable)
        return any(variables.place(axis) is not None for axis in axes)
