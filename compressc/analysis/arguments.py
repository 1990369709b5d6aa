"""The arguments of an ATen call by their schema names."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from compressc.ir import Op
from compressc.ir.ops import overload


def argument(op: Op, name: str) -> Any:
    """An argument as the IR holds it; the schema's default where it is left out, None without."""
    if name in op.kwargs:
        return op.kwargs[name]
    position, default = arguments(op.kind).get(name, (len(op.args), None))
    return op.args[position] if position < len(op.args) else default


def set_argument(op: Op, name: str, value: Any) -> None:
    """Give a constant argument that is written down another value."""
    position = arguments(op.kind)[name][0]
    if name in op.kwargs:
        op.kwargs[name] = value
    else:
        op.args = (*op.args[:position], value, *op.args[position + 1 :])


@cache
def arguments(kind: str) -> dict[str, tuple[int, Any]]:
    """Schema name -> (position, default); empty for what is no ATen call."""
    target = overload(kind)
    schema = target._schema.arguments if isinstance(target, torch._ops.OpOverload) else ()
    return {argument.name: (i, _held(argument.default_value)) for i, argument in enumerate(schema)}


def _held(default: Any) -> Any:
    """A default as the IR holds arguments: lists are tuples."""
    return tuple(default) if isinstance(default, list) else default
