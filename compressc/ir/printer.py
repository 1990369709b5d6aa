"""Graph -> text: one op per line, typed, stable order; `parser` reads it back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import sympy
import torch

from compressc.errors import CompresscError
from compressc.ir.layer_building import layer_tensors
from compressc.ir.number_forms import NumberForm
from compressc.ir.ops import Arg, Op, Ref, layer_attributes
from compressc.ir.types import DTYPE_NAMES, size_text

_LAYOUTS = {torch.strided: "layout.strided"}
_FORMATS = {
    torch.contiguous_format: "memory.contiguous",
    torch.preserve_format: "memory.preserve",
    torch.channels_last: "memory.channels_last",
    torch.channels_last_3d: "memory.channels_last_3d",
}


_DEVICES = {name: f"device.{name}" for name in ("cpu", "cuda", "meta")}
_DTYPES = {dtype: f"dtype.{name}" for dtype, name in DTYPE_NAMES.items()}
#: Constants with a name of their own; a device goes by its type.
_WORDS: dict[Any, str] = {**_LAYOUTS, **_FORMATS, **_DTYPES, **_DEVICES}


class Printable(Protocol):
    """What of a `Graph` is printed; the graph prints itself, so this module cannot know it."""

    name: str
    widths: dict[str, int]
    limits: dict[str, tuple[int, int | None]]
    outputs: Arg

    @property
    def inputs(self) -> list[Op]:
        """The model's inputs."""

    def __iter__(self) -> Iterator[Op]: ...

    def tensor_names(self) -> dict[int, str]:
        """`id(tensor)` -> text name."""


def limit_text(name: str, least: int, most: int | None) -> str:
    """`2 <= s <= 64`, without the side that says nothing."""
    left = f"{least} <= " if least > 1 else ""
    right = f" <= {most}" if most is not None else ""
    return f"{left}{name}{right}"


def print_graph(graph: Printable) -> str:
    """The whole graph; `parse_graph(print_graph(g), g.tensors())` prints the same again."""
    names = graph.tensor_names()
    inputs = ", ".join(f"%{op.name}: {op.type}" for op in graph.inputs)
    lines = [f"graph {graph.name}({inputs}) {{"]
    if graph.limits:
        lines.append("  where " + ", ".join(limit_text(k, *v) for k, v in graph.limits.items()))
    if graph.widths:
        lines.append("  width " + ", ".join(f"{k} = {v}" for k, v in graph.widths.items()))
    lines += [f"  input %{op.name}   {text}" for op in graph.inputs if (text := origin_text(op))]
    body = [(op_text(op, names), origin_text(op)) for op in graph if op.kind != "input"]
    margin = min(max((len(text) for text, _ in body), default=0), 110)
    lines += [f"  {text:<{margin}}   {origin}".rstrip() for text, origin in body]
    return "\n".join([*lines, f"  return {arg_text(graph.outputs)}", "}", ""])


def op_text(op: Op, names: dict[int, str]) -> str:
    """`%conv1 = conv2d(%x) {in=1, out=32, kernel=3} @conv1.weight @conv1.bias : f32[b,32,8,8]`."""
    operands = [arg_text(arg) for arg in op.args]
    operands += [f"{key}={arg_text(arg)}" for key, arg in op.kwargs.items()]
    text = f"%{op.name} = {op.kind}({', '.join(operands)})"
    if op.layer is not None:
        if attributes := layer_attributes(op):
            pairs = ", ".join(f"{key}={arg_text(value)}" for key, value in attributes.items())
            text += f" {{{pairs}}}"
        for _, tensor in layer_tensors(op.layer):
            text += f" @{names[id(tensor)]}"
    return f"{text} : {op.type}"


def origin_text(op: Op) -> str:
    """`# from conv1, bn1 kept 1:0-3,7`: the lineage, and the teacher indices that are left."""
    text = f"# from {', '.join(op.lineage)}" if op.lineage else ""
    for dim, kept in op.kept.items():
        text += f"{'' if text else '#'} kept {dim}:{ranges_text(kept)}"
    return text


def ranges_text(indices: Iterable[int]) -> str:
    """`0-3,7`: ascending runs joined; order is kept."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def arg_text(arg: Arg) -> str:
    """Text of one argument; `parser.parse_arg` reads it back."""
    if isinstance(arg, Ref):
        return f"%{arg.name}"
    if isinstance(arg, tuple | list):
        return f"[{', '.join(map(arg_text, arg))}]"
    if isinstance(arg, dict):
        return "{" + ", ".join(f"{_string_text(k)}: {arg_text(v)}" for k, v in arg.items()) + "}"
    return _constant_text(arg)


def _string_text(text: str) -> str:
    """JSON, with what delimits a line's parts escaped, so that lines split safely."""
    marks = '\\"#(){}[]@:%'
    return '"' + "".join(_escape(c) if c in marks else json.dumps(c)[1:-1] for c in text) + '"'


def _escape(char: str) -> str:
    return f"\\u{ord(char):04x}"


def _constant_text(arg: Any) -> str:
    if arg is None or isinstance(arg, bool):
        return str(arg).lower()
    if isinstance(arg, int | float):
        return repr(arg)
    if isinstance(arg, str):
        return _string_text(arg)
    if isinstance(arg, sympy.Expr):
        return size_text(arg)
    if isinstance(arg, NumberForm):
        return str(arg)
    if not is_word(arg):
        raise CompresscError("CC400", "an argument of this kind has no text form", got=repr(arg))
    return _WORDS[_word(arg)]


def is_word(arg: Any) -> bool:
    """Whether a constant has a name of its own: a dtype, a device, a layout, a memory format."""
    kinds = torch.dtype | torch.device | torch.layout | torch.memory_format
    return isinstance(arg, kinds) and _word(arg) in _WORDS


def _word(arg: Any) -> Any:
    return arg.type if isinstance(arg, torch.device) else arg


def error_at(graph: Printable, op: Op, code: str, wanted: str, got: str = "") -> CompresscError:
    """An error that shows the line of graph text at fault; the op's name where it has no text."""
    try:
        line = op_text(op, graph.tensor_names())
    except (CompresscError, LookupError, AttributeError, TypeError, ValueError):
        line = f"%{op.name}"
    return CompresscError(code, wanted, got=got, where=line)
