"""Text -> Graph. Reads what `printer` writes, runs no code, and points at the line it rejects."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from compressc.collecting import collector_paused
from compressc.errors import CompresscError
from compressc.ir.graph import Graph
from compressc.ir.layer_building import build_layer, layer_tensors
from compressc.ir.layers import LAYERS, Tensor
from compressc.ir.ops import Arg, Op, Ref, overload
from compressc.ir.printer import _FORMATS, _LAYOUTS
from compressc.ir.types import (
    DTYPES,
    TupleType,
    ValueType,
    parse_number_form,
    parse_size,
    parse_type,
)
from compressc.spec import split_top_level

_NAME = r"[A-Za-z0-9_.]+"
_HEADER = re.compile(rf"graph ({_NAME})\((.*)\) \{{$")
_OP = re.compile(
    rf"%({_NAME}) = ({_NAME})\((.*?)\)(?: \{{(.*?)\}})?((?: @{_NAME})*) : ([^#]*)(#.*)?$"
)
_ORIGIN = re.compile(rf"(?:# from ({_NAME}(?:, {_NAME})*)|#)((?: kept \d+:[\d,-]+)*)$")
_INPUT_ORIGIN = re.compile(rf"input %({_NAME}) +(#.*)$")
_LIMIT = re.compile(r"(?:(\d{1,18}) <= )?([A-Za-z_]\w*)(?: <= (\d{1,18}))?$")
_NUMBER = re.compile(r"-?(\d+\.?\d*([eE][-+]?\d+)?|inf|nan)$")
_WORDS: dict[str, Arg] = {
    "none": None,
    "true": True,
    "false": False,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "device.cpu": torch.device("cpu"),
    "device.meta": torch.device("meta"),
    "device.cuda": torch.device("cuda"),
    **{f"dtype.{name}": dtype for name, dtype in DTYPES.items()},
    **{text: value for table in (_LAYOUTS, _FORMATS) for value, text in table.items()},
}
#: What reading a forged line can raise.
_MALFORMED = (
    CompresscError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,  # RecursionError, and what torch raises
)
_MOST_KEPT = 1 << 20


@collector_paused()
def parse_graph(text: str, tensors: Mapping[str, torch.Tensor] | None = None) -> Graph:
    """Read a graph.

    Args:
        text: what `print_graph` wrote.
        tensors: the weights by their text names; without them, layers hold meta tensors.

    Raises:
        CompresscError: CC402 with the line number where the text is not understood.
    """
    lines = [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    graph, weights = Graph(), _Weights(tensors)
    returned = False
    for number, line in lines:
        try:
            if match := _HEADER.match(line):
                graph.name = match[1]
                for item in split_top_level(match[2]):
                    name, _, type_ = item.partition(": ")
                    graph.append(Op(name.removeprefix("%"), "input", type=parse_type(type_)))
            elif line.startswith("where "):
                graph.limits = dict(map(_parse_limit, split_top_level(line[6:])))
            elif line.startswith("width "):
                pairs = (item.split(" = ") for item in split_top_level(line[6:]))
                graph.widths = {name: int(value) for name, value in pairs}
            elif match := _INPUT_ORIGIN.match(line):
                op = graph[match[1]]
                op.lineage, op.kept = _parse_origin(match[2])
            elif line.startswith("return "):
                graph.outputs, returned = parse_arg(line[7:]), True
            elif line != "}":
                graph.append(_parse_op(line, weights))
        except _MALFORMED as error:
            got = error.wanted if isinstance(error, CompresscError) else str(error)
            raise CompresscError(
                "CC402",
                "a line of graph text is wrong",
                got=got,
                where=f"line {number}: {line[:120]}",
            ) from error
    if not returned:
        raise CompresscError("CC402", "graph text ends with a 'return' line", got="none")
    return graph


def _parse_limit(text: str) -> tuple[str, tuple[int, int | None]]:
    match = _LIMIT.match(text)
    if match is None:
        raise ValueError("a limit is written like 2 <= s <= 64")
    least, name, most = match.groups()
    return name, (int(least or 1), int(most) if most else None)


def _parse_op(line: str, weights: _Weights) -> Op:
    match = _OP.match(line)
    if match is None:
        raise ValueError("not an op: %name = kind(operands) {attributes} @tensors : type")
    name, kind, operands, attributes, references, type_, origin = match.groups()
    type_ = type_.rstrip()  # not by the pattern, which would try each blank of a long run
    args, kwargs = _parse_operands(operands)
    layer = None
    if kind in LAYERS:
        layer = _parse_layer(kind, attributes or "", references.split(), type_, weights)
    else:
        overload(kind)  # an unknown operation is refused here, not when the model runs
    lineage, kept = _parse_origin(origin or "")
    return Op(name, kind, args, kwargs, layer, _parse_value_type(type_), lineage, kept)


def _parse_operands(text: str) -> tuple[tuple[Arg, ...], dict[str, Arg]]:
    args: list[Arg] = []
    kwargs: dict[str, Arg] = {}
    for item in split_top_level(text):
        if match := re.match(r"([A-Za-z_]\w*)=(.*)$", item):
            kwargs[match[1]] = parse_arg(match[2])
        else:
            args.append(parse_arg(item))
    return tuple(args), kwargs


def _parse_layer(
    kind: str, attributes: str, references: list[str], type_: str, weights: _Weights
) -> nn.Module:
    names = [reference.removeprefix("@") for reference in references]
    if kind in ("parameter", "constant"):
        wanted = parse_type(type_)
        shape = [int(size) for size in wanted.shape]
        blank = torch.empty(shape, dtype=wanted.dtype, device="meta")
        trains = kind == "parameter"
        layer: nn.Module = Tensor(nn.Parameter(blank) if trains else blank)
    else:
        _, values = _parse_operands(attributes)
        layer = build_layer(kind, values)
    slots = layer_tensors(layer)
    if len(slots) != len(names):
        wanted_names = " ".join(local for local, _ in slots)
        raise ValueError(f"'{kind}' holds {len(slots)} tensors ({wanted_names}), not {len(names)}")
    for (local, blank), name in zip(slots, names, strict=True):
        weights.fill(layer, local, blank, name)
    return layer


class _Weights:
    """Puts tensors into layers; a name used twice becomes one tied tensor."""

    def __init__(self, tensors: Mapping[str, torch.Tensor] | None) -> None:
        self.tensors = tensors
        self.made: dict[str, torch.Tensor] = {}

    def fill(self, layer: nn.Module, local: str, blank: torch.Tensor, name: str) -> None:
        if name not in self.made:
            value = blank if self.tensors is None else self.tensors[name]
            is_parameter = isinstance(blank, nn.Parameter)
            self.made[name] = (
                nn.Parameter(value.detach(), requires_grad=value.is_floating_point())
                if is_parameter
                else value.detach()
            )
        tensor = self.made[name]
        if tensor.shape != blank.shape:
            raise ValueError(f"@{name} is {tuple(tensor.shape)}, not {tuple(blank.shape)}")
        table = layer._parameters if local in layer._parameters else layer._buffers
        table[local] = tensor  # type: ignore[assignment]  # not setattr: a tie must stay a tie


def _parse_value_type(text: str) -> ValueType:
    if text.startswith("("):
        return TupleType(tuple(parse_type(item) for item in split_top_level(text[1:-1])))
    return parse_type(text)


def _parse_origin(text: str) -> tuple[tuple[str, ...], dict[int, tuple[int, ...]]]:
    if not text:
        return (), {}
    match = _ORIGIN.match(text)
    if match is None:
        raise ValueError("an origin is written like # from conv1, bn1 kept 1:0-3,7")
    lineage = tuple(match[1].split(", ")) if match[1] else ()
    kept = {}
    for item in match[2].split(" kept ")[1:]:
        dim, _, runs = item.partition(":")
        kept[int(dim)] = tuple(i for run in runs.split(",") for i in _run(run))
    return lineage, kept


def _run(text: str) -> range:
    first, dash, last = text.partition("-")
    run = range(int(first), int(last if dash else first) + 1)
    if len(run) > _MOST_KEPT:
        raise ValueError(f"more than {_MOST_KEPT} kept indices")
    return run


def parse_arg(text: str) -> Arg:
    """Read one argument that `arg_text` wrote.

    Raises:
        CompresscError: CC402 where it is none.
    """
    text = text.strip()
    if text in _WORDS:
        return _WORDS[text]
    if text.startswith("["):
        return tuple(parse_arg(item) for item in split_top_level(text[1:-1]))
    if text.startswith("{"):
        pairs = (_split_pair(item) for item in split_top_level(text[1:-1]))
        return {key: parse_arg(value) for key, value in pairs}
    return _parse_leaf(text)


def _parse_leaf(text: str) -> Arg:
    if text.startswith("%"):
        return Ref(text[1:])
    if text.startswith('"'):
        return json.loads(text)
    if _NUMBER.match(text):
        return float(text) if re.search(r"[.eE]", text) else int(text)
    return parse_number_form(text) if text.endswith("}") else parse_size(text)


def _split_pair(item: str) -> tuple[Any, str]:
    key, value = split_top_level(item, ":")
    return json.loads(key), value
