"""What is done to values between the layers of a graph, as parts of the user's module.

A value that is rounded for a layer is rounded by a small module around that layer; one that other
code reads is rounded by a module around the layer that makes it. A graph in 16 bits is the module
in 16 bits, with a hook in front of it and one behind.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.utils import _pytree as pytree

from compressc.analysis.integers import is_integer, moves_integers
from compressc.editing import computes_on_integers, read_floats
from compressc.errors import CompresscError
from compressc.ir import Graph, Op, Ref, layer_tensors
from compressc.ir.ops import Arg, map_arg
from compressc.ir.quantized import DEQUANTIZE, QUANTIZE

#: Scale, zero point, least, most and dtype.
Form = tuple[Arg, ...]
Side = Literal["given", "made"]

_CAST = "aten.to.dtype"
_NARROW = (torch.bfloat16, torch.float16)


@dataclass
class Between:
    """What happens to values between layers.

    Attributes:
        plain: the graph without that.
        forms: (path of a module, whether what it is given or what it makes) -> how it is rounded.
        narrow: the float type of 16 bits that all is computed in; None: as it was.
    """

    plain: Graph
    forms: dict[tuple[str, Side], Form] = field(default_factory=dict)
    narrow: torch.dtype | None = None

    def put(self, module: nn.Module) -> None:
        """Give it to a module that computes the plain graph."""
        for path in dict.fromkeys(path for path, _ in self.forms):
            parent, _, name = path.rpartition(".")
            layer = module.get_submodule(path)
            given, made = (self.forms.get((path, side)) for side in ("given", "made"))
            module.get_submodule(parent)._modules[name] = Rounded(layer, given, made)
        if self.narrow is not None:
            module.to(self.narrow)
            module.register_forward_pre_hook(_Narrowed(self.narrow), with_kwargs=True)
            module.register_forward_hook(_Widened(self.narrow))


def between_layers(graph: Graph, before: Graph, layers: Mapping[str, str]) -> Between:
    """Take what happens between layers out of a copy of a graph.

    Args:
        graph: what a module has to compute.
        before: the graph of the module.
        layers: op of `before` -> path of the module that is this layer.

    Raises:
        CompresscError: CC507 naming a value that no module can round.
    """
    found, layers = Between(graph.copy()), {**_used_again(before, layers), **layers}
    _take_casts(found, before)
    plain = found.plain
    readers = [op for op in plain if op.kind not in (QUANTIZE, DEQUANTIZE)]
    readers = [op for op in readers if any(is_integer(plain, name) for name in op.inputs)]
    readers = [op for op in readers if computes_on_integers(plain, op)]
    outputs = [name for name in dict.fromkeys(plain.output_names) if is_integer(plain, name)]
    for op in readers:
        rounded = [name for name in op.inputs if is_integer(plain, name)]
        path = layers.get(op.name)
        if path is not None and len(op.inputs) == 1:
            _set(found, (path, "given"), _form(plain, rounded[0])[1], op.name)
            continue
        for name in rounded:
            _round_where_made(found, name, layers, op.name)
    for name in outputs:
        _round_where_made(found, name, layers, name)
    read_floats(plain, [*(op.name for op in readers), *outputs])
    return found


def _used_again(before: Graph, layers: Mapping[str, str]) -> dict[str, str]:
    """Second uses of a layer -> the path of its module."""
    held = {_tensors(before[name]): path for name, path in layers.items()}
    held.pop(None, None)
    found = {op.name: held.get(_tensors(op)) for op in before}
    return {name: path for name, path in found.items() if path is not None}


def _tensors(op: Op) -> frozenset[int] | None:
    """By identity; None for a layer without any, which is not known by what it holds."""
    held = [] if op.layer is None else layer_tensors(op.layer)
    return frozenset(id(tensor) for _, tensor in held) or None


def _round_where_made(found: Between, name: str, layers: Mapping[str, str], reader: str) -> None:
    """By the module that makes a value, where all that read it read it rounded in one form."""
    graph = found.plain
    source, form = _form(graph, name)
    path = layers.get(source)
    alike = all(user.kind == QUANTIZE and user.args[1:] == form for user in graph.users(source))
    if path is None or not alike or source in graph.output_names:
        raise CompresscError(
            "CC507",
            "a value that is rounded must be what a layer is given, or what one makes",
            got=f"%{source}, which the module's code computes"
            if path is None
            else f"%{source}, which others read as it is",
            where=f"%{reader}",
            hint="apply before quant, or quant(mode=weights) or quant(mode=dynamic)",
        )
    _set(found, (path, "made"), form, reader)


def _set(found: Between, key: tuple[str, Side], form: Form, reader: str) -> None:
    if found.forms.setdefault(key, form) != form:
        raise CompresscError(
            "CC507",
            "a module rounds in one range",
            got=f"'{key[0]}' is used more than once, with values in different ranges",
            where=f"%{reader}",
            hint="apply before quant, or quant(mode=weights) or quant(mode=dynamic)",
        )


def _form(graph: Graph, name: str) -> tuple[str, Form]:
    """The float value behind an integer one, and how it is rounded."""
    op = graph[name]
    while moves_integers(op):
        op = graph[op.inputs[0]]
    source, form = graph[op.inputs[0]].inputs[0], op.args[1:]
    while is_integer(graph, source) and graph[source].kind != DEQUANTIZE:
        source = graph[source].inputs[0]  # integers that moved are rounded once more, as they are
    if graph[source].kind == DEQUANTIZE:
        return _form(graph, source)
    return source, form


def _take_casts(found: Between, before: Graph) -> None:
    """Take `quant(mode=cast)` out: what turns inputs narrow and outputs wide."""
    graph = found.plain
    casts = [op for op in graph if op.kind == _CAST and op.name not in before]
    inputs = {op.name for op in graph.inputs}
    narrow = {op.args[1] for op in casts if op.inputs[0] in inputs}
    if len(narrow) != 1 or not narrow <= set(_NARROW):
        return
    (dtype,) = narrow
    assert isinstance(dtype, torch.dtype)
    found.narrow = dtype
    for op in casts:
        source = op.inputs[0]
        graph.outputs = map_arg(graph.outputs, _renamed(op, source))
        graph.redirect(op.name, source)
        graph.erase(op.name)


def _renamed(op: Op, source: str) -> Any:
    return lambda arg: Ref(source) if arg == Ref(op.name) else arg


class Rounded(nn.Module):
    """A layer that rounds what it is given, or what it makes, in a range that data showed.

    What the layer has as attributes, this has, too. Gradients go through as if nothing were
    rounded.
    """

    def __init__(self, layer: nn.Module, given: Form | None, made: Form | None) -> None:
        super().__init__()
        self.layer, self.given, self.made = layer, given, made

    def __getattr__(self, name: str) -> Any:
        """Of this module, else of the layer."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "layer":
                raise
            return getattr(self.layer, name)

    def forward(self, input: torch.Tensor, *args: Any, **options: Any) -> Any:
        """What the layer computes."""
        given = input if self.given is None else _round(input, self.given)
        made = self.layer(given, *args, **options)
        return made if self.made is None else _round(made, self.made)


def _round(value: torch.Tensor, form: Form) -> torch.Tensor:
    importlib.import_module("torch.ao.quantization.fx._decomposed")  # registers the operators
    ops: Any = torch.ops.quantized_decomposed
    stored = ops.quantize_per_tensor(value.detach(), *form)
    rounded: torch.Tensor = ops.dequantize_per_tensor(stored, *form)
    return value + (rounded - value).detach() if value.requires_grad else rounded


@dataclass(frozen=True)
class _Narrowed:
    """Hook in front of a module: floats become narrow."""

    dtype: torch.dtype

    def __call__(self, module: nn.Module, args: Any, options: Any) -> Any:
        return pytree.tree_map(self._of, (args, options))

    def _of(self, value: Any) -> Any:
        is_float = isinstance(value, torch.Tensor) and value.dtype is torch.float32
        return value.to(self.dtype) if is_float else value


@dataclass(frozen=True)
class _Widened:
    """Hook behind it: narrow floats become f32."""

    dtype: torch.dtype

    def __call__(self, module: nn.Module, args: Any, result: Any) -> Any:
        return pytree.tree_map(self._of, result)

    def _of(self, value: Any) -> Any:
        narrow = isinstance(value, torch.Tensor) and value.dtype is self.dtype
        return value.float() if narrow else value
