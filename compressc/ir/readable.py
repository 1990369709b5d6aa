"""Does the text form say all of a graph, and read back as the same?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import sympy

from compressc.errors import CompresscError
from compressc.ir.graph import Graph
from compressc.ir.ops import Arg, Op, Ref
from compressc.ir.printer import error_at, is_word
from compressc.ir.types import (
    DTYPE_NAMES,
    Size,
    TensorType,
    TupleType,
    ValueType,
    parse_size,
    size_text,
)

_NAME = re.compile(r"[A-Za-z0-9_.]+")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Words that text gives another meaning than that of a symbol.
_RESERVED = {"none", "true", "false", "nan", "inf"}
_LARGEST = 10**18 - 1
_LEAF_TYPES = (int, float, str, bool, type(None))


def check_readable(graph: Graph) -> None:
    """Names, constants, types, lineage and limits have a text that reads back.

    Raises:
        CompresscError: CC400 or, for a type, CC401, with the line at fault.
    """
    if not _NAME.fullmatch(graph.name):
        raise CompresscError("CC400", "a graph's name has letters, digits, _ and .", got=graph.name)
    _check_symbols(graph)
    for op in graph:
        problem = _problem(op)
        if problem:
            raise error_at(graph, op, "CC400", f"'%{op.name}' {problem}")
        if op.type is None or not _is_readable_type(op.type):
            raise error_at(graph, op, "CC401", f"'%{op.name}' has a type that reads back", "none")
    if problem := _argument_problem(graph.outputs):
        raise CompresscError("CC400", f"the graph's output {problem}")


def _problem(op: Op) -> str:
    """What of an op has no text, or other text than it should have."""
    if not _NAME.fullmatch(op.name):
        return "is no name"
    if op.kind == "input" and (op.args or op.kwargs or not isinstance(op.type, TensorType)):
        return "is an input, which is a tensor and reads nothing"
    if not all(_is_name(name) for name in op.lineage):
        return f"has a lineage that is no names: {op.lineage}"
    if op.kwargs and not all(_is_identifier(key) for key in op.kwargs):
        return f"has keywords that are no names: {list(op.kwargs)}"
    return _kept_problem(op) or _argument_problem(op.args) or _argument_problem(op.kwargs)


def _is_name(text: Any) -> bool:
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def _is_identifier(text: Any) -> bool:
    return isinstance(text, str) and _IDENTIFIER.fullmatch(text) is not None


def _kept_problem(op: Op) -> str:
    """Kept teacher indices: one for each index of the dimension, none twice."""
    shape = op.type.shape if isinstance(op.type, TensorType) else ()
    for dim, kept in op.kept.items():
        if type(dim) is not int or not 0 <= dim < len(shape):
            return f"keeps indices of dimension {dim}, which it does not have"
        if not kept or not all(type(index) is int and index >= 0 for index in kept):
            return f"keeps indices of dimension {dim} that are none"
        if len(set(kept)) != len(kept) or shape[dim] != len(kept):
            return f"keeps {len(set(kept))} indices of dimension {dim}, whose size is {shape[dim]}"
    return ""


def _argument_problem(arg: Arg) -> str:
    for leaf in _leaves(arg):
        if type(leaf) is Ref:
            if not _is_name(leaf.name):
                return "reads a value without a name"
        elif type(leaf) not in _LEAF_TYPES and not _is_constant(leaf):
            return f"has an argument without a text form: {str(leaf)[:80]}"
    return ""


def _leaves(arg: Arg) -> Iterator[Any]:
    if isinstance(arg, tuple | list):
        for item in arg:
            yield from _leaves(item)
    elif isinstance(arg, dict):
        for key, item in arg.items():
            yield key if isinstance(key, str) else Ref("")
            yield from _leaves(item)
    else:
        yield arg


def _is_constant(leaf: Any) -> bool:
    return _reads_back(leaf) if isinstance(leaf, sympy.Expr) else is_word(leaf)


@lru_cache(maxsize=4096)
def _reads_back(size: sympy.Expr) -> bool:
    try:
        return bool(parse_size(size_text(size)) == size)
    except CompresscError:
        return False


def _is_readable_type(type_: ValueType) -> bool:
    if isinstance(type_, TupleType):
        return all(_is_readable_type(item) for item in type_.items)
    sizes = type_.shape
    readable = isinstance(sizes, tuple) and all(map(_is_readable_size, sizes))
    return readable and type_.dtype in DTYPE_NAMES


def _is_readable_size(size: Size) -> bool:
    return type(size) is int or (isinstance(size, sympy.Expr) and _reads_back(size))


# ---- symbols ------------------------------------------------------------------------------------


def _check_symbols(graph: Graph) -> None:
    """Widths have values, limits leave a size, and every symbol is one or the other."""
    for name, value in graph.widths.items():
        if not _is_symbol(name) or type(value) is not int or not 0 < value <= _LARGEST:
            raise CompresscError("CC400", "a width is a name with a size", got=f"{name} = {value}")
    sourced = dimension_names(graph)
    for name, (least, most) in graph.limits.items():
        if name not in sourced:
            raise CompresscError("CC400", f"the limit of '{name}' is of no open dimension")
        sizes = [least] if most is None else [least, most]
        ordered = all(type(size) is int and 1 <= size <= _LARGEST for size in sizes)
        if not ordered or sizes != sorted(sizes):
            got = f"{least} to {most}"
            raise CompresscError("CC400", f"dimension '{name}' must have a size", got=got)


def dimension_names(graph: Graph) -> set[str]:
    """The open dimensions, each the size of some input's dimension.

    Raises:
        CompresscError: CC400 for an input whose size has a symbol that no input's dimension is.
    """
    sizes = [
        (op, size)
        for op in graph.inputs
        if isinstance(op.type, TensorType)
        for size in op.type.shape
        if isinstance(size, sympy.Expr)
    ]
    sourced = {str(size) for _, size in sizes if size.is_Symbol}
    for op, size in sizes:
        for name in sorted(map(str, size.free_symbols)):
            if name not in sourced or not _is_symbol(name) or name in graph.widths:
                wanted = f"'{name}' in the size of '%{op.name}' is an open dimension"
                raise error_at(graph, op, "CC400", wanted, str(size))
    return sourced


def _is_symbol(name: Any) -> bool:
    return _is_identifier(name) and name not in _RESERVED
