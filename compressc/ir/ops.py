"""Ops: a layer op holds a real `torch.nn` leaf module, every other op is a call of a library.

What is known of a layer kind is in `layers`, what is known of calls that move numbers in `moves`.
"""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from compressc.errors import CompresscError
from compressc.ir.layer_building import squeeze
from compressc.ir.layers import LAYERS, Role
from compressc.ir.moves import MOVES, PADS, PICKS, Move
from compressc.ir.number_forms import INT8_PER_CHANNEL, NumberForm
from compressc.ir.types import ValueType


@dataclass(frozen=True, slots=True)
class Ref:
    """A use of another op's value; prints as `%name`."""

    name: str


#: Ref, int, float, bool, str, None, dtype, device, layout, memory format, size expression,
#: or a tuple of these.
Arg = Any


@dataclass(eq=False, slots=True)
class Op:
    """One operation of the graph.

    Attributes:
        name: unique and stable; erasing an op never renumbers another.
        kind: `conv2d` (a layer), `aten.add.Tensor` (an ATen overload), `parameter`, `constant`,
            `getitem` or `input`.
        args: operands and constants in schema order.
        kwargs: keyword constants of an ATen call.
        layer: the leaf module of a layer op, else None.
        type: dtype and shape of the result.
        lineage: the teacher ops this op descends from, the last one being the op whose value it
            stands for.
        kept: for each pruned dimension of the result, the teacher indices that are left.
    """

    name: str
    kind: str
    args: tuple[Arg, ...] = ()
    kwargs: dict[str, Arg] = field(default_factory=dict)
    layer: nn.Module | None = None
    type: ValueType | None = None
    lineage: tuple[str, ...] = ()
    kept: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the values this op reads, in operand order; one read twice is there twice."""
        return tuple(ref.name for ref in refs_of((self.args, self.kwargs)))

    @property
    def packet(self) -> str:
        """The kind without its overload: `aten.softmax` of `aten.softmax.int`."""
        return ".".join(self.kind.split(".")[:2])

    @property
    def role(self) -> Role | None:
        """What its layer does; None for a call, and for a layer of a stranger that does not say."""
        return LAYERS[self.kind].role if self.kind in LAYERS else None

    @property
    def weight_form(self) -> NumberForm | None:
        """How the numbers of its layer's weight are stored; None: as floats, or there is none."""
        default = LAYERS[self.kind].form if self.kind in LAYERS else None
        return getattr(self.layer, "weight_form", default)

    @property
    def input_form(self) -> NumberForm | None:
        """How its layer rounds what it is given; None: not at all."""
        return getattr(self.layer, "input_form", None)

    @property
    def int8(self) -> bool:
        """Whether its layer's weight is stored as integer kernels take it."""
        return self.weight_form == INT8_PER_CHANNEL

    @property
    def move(self) -> Move | None:
        """How it hands on the numbers it is given; None where it computes others."""
        return "same" if self.role == "dropout" else MOVES.get(self.packet)

    @property
    def picks(self) -> bool:
        """Whether every number it gives is one of those that it is given first, or a zero."""
        if self.packet not in PADS:
            return self.move not in (None, "cast") or self.packet in PICKS
        told = dict(zip(PADS[self.packet], self.args[1:], strict=False)) | self.kwargs
        return told.get("mode", "constant") != "constant" or told.get("value") in (None, 0)


def refs_of(arg: Arg) -> Iterator[Ref]:
    """All references inside a nested argument, in order."""
    if isinstance(arg, Ref):
        yield arg
    elif isinstance(arg, tuple | list):
        for item in arg:
            yield from refs_of(item)
    elif isinstance(arg, Mapping):
        for item in arg.values():
            yield from refs_of(item)


def map_arg(arg: Arg, change: Callable[[Arg], Arg]) -> Arg:
    """`arg` with `change` applied to each leaf; tuples stay tuples and mappings dicts."""
    if isinstance(arg, tuple | list):
        return tuple(map_arg(item, change) for item in arg)
    if isinstance(arg, Mapping):
        return {key: map_arg(item, change) for key, item in arg.items()}
    return change(arg)


def layer_attributes(op: Op) -> dict[str, Arg]:
    """The attributes of a layer op that differ from the defaults, as they print."""
    kind = LAYERS[op.kind]
    found = {}
    for text, attribute in kind.attributes.items():
        value = getattr(op.layer, attribute)
        if text == "bias":
            value = value is not None
        elif text != "shape" or len(value) == 1:  # layer_norm over (4, 4) is not over 4
            value = squeeze(value)
        if text not in kind.defaults or value != kind.defaults[text]:
            found[text] = value
    return found


#: Operator libraries whose ops the IR may call.
NAMESPACES = ("aten", "prims", "quantized_decomposed", "compressc")


def overload(kind: str) -> Callable[..., Any]:
    """The callable of an ATen (or other library) op.

    Raises:
        CompresscError: CC402 for a name that no operator library has.
    """
    if kind == "getitem":
        return operator.getitem
    namespace, _, rest = kind.partition(".")
    packet, _, name = rest.partition(".")
    if namespace == "quantized_decomposed":
        importlib.import_module("torch.ao.quantization.fx._decomposed")  # registers the library
    if namespace in NAMESPACES:
        library = getattr(torch.ops, namespace)
        found = getattr(getattr(library, packet, None), name or "default", None)
        if isinstance(found, torch._ops.OpOverload) and not _touches_files(found):
            return found
    raise CompresscError("CC402", f"unknown operation '{kind}'", hint=", ".join(NAMESPACES))


def _touches_files(target: torch._ops.OpOverload) -> bool:
    """`aten.save` and `aten.from_file`: a graph from a stranger's file must not reach the disk."""
    return any(argument.name == "filename" for argument in target._schema.arguments)


def kind_of(target: torch._ops.OpOverload) -> str:
    """`aten.add.Tensor`, or `aten.linear` where the overload is the default one."""
    name = str(target)
    return name.removesuffix(".default")
