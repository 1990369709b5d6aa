"""Types of values: dtype and shape, with symbolic sizes.

A size is an `int` or a sympy expression over two kinds of symbols: the *dimensions* the user left
open (`b`, `s`, ...; positive integers known when the model runs) and the *widths* of the graph
(`w0`, ...; integers that a pass may change, kept in `Graph.widths`).
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import sympy
import torch
from torch.utils._sympy.functions import CleanDiv, FloorDiv, Mod, PythonMod
from torch.utils._sympy.functions import Max as TorchMax
from torch.utils._sympy.functions import Min as TorchMin

from compressc.errors import CompresscError
from compressc.ir.number_forms import INT4, UINT4, NumberForm, parse_form
from compressc.spec import split_top_level

Size: TypeAlias = int | sympy.Expr

DTYPES: dict[str, torch.dtype] = {
    "f64": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "i64": torch.int64,
    "i32": torch.int32,
    "i16": torch.int16,
    "i8": torch.int8,
    "i4": INT4,
    "u4": UINT4,
    "u8": torch.uint8,
    "u16": torch.uint16,
    "u32": torch.uint32,
    "u64": torch.uint64,
    "f8e4m3": torch.float8_e4m3fn,
    "f8e5m2": torch.float8_e5m2,
    "bool": torch.bool,
    "c64": torch.complex64,
    "c128": torch.complex128,
}
DTYPE_NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class TensorType:
    """A tensor's dtype and shape; prints as `f32[b,32,8,8]`.

    One that is stored in a number form has that, too: `i4[64,576]{axis=0, group=32}`. A value that
    an op computes has none: the ops that round it say how.
    """

    dtype: torch.dtype
    shape: tuple[Size, ...]
    form: NumberForm | None = None

    def __post_init__(self) -> None:
        if self.form is not None and self.form.dtype != self.dtype:
            raise ValueError(f"{self.form} is no form of {self.dtype}")

    def __str__(self) -> str:
        """The text form that `parse_type` reads back."""
        dtype = DTYPE_NAMES.get(self.dtype, str(self.dtype))  # for an error; `verify` refuses it
        scaling = "" if self.form is None else self.form.scaling
        return f"{dtype}[{','.join(map(size_text, self.shape))}]{scaling}"

    def numel(self, env: Mapping[str, int]) -> int:
        """Number of elements with the symbols of `env` filled in."""
        count = 1
        for size in self.shape:
            count *= evaluate(size, env)
        return count


@dataclass(frozen=True, slots=True)
class TupleType:
    """The type of an op with several results (`aten.unbind`, `aten.split`); `getitem` picks one."""

    items: tuple[TensorType, ...]

    def __str__(self) -> str:
        """The text form, `(f32[b,4], f32[b,4])`."""
        return f"({', '.join(map(str, self.items))})"


ValueType = TensorType | TupleType


@lru_cache(maxsize=4096)
def symbol(name: str) -> sympy.Symbol:
    """The one symbol of that name: a positive integer, so that sympy may simplify."""
    return sympy.Symbol(name, integer=True, positive=True)


def simplify_size(size: Any) -> Size:
    """An `int` where the value is known, else the expression."""
    if isinstance(size, int):
        return size
    if size.has(TorchMax, TorchMin):  # look the same in text, which reads back as sympy's
        size = size.replace(TorchMax, sympy.Max).replace(TorchMin, sympy.Min)
    if size.has(sympy.Max, sympy.Min):
        # sympy leaves Max(s, Min(2, 3)) as it is; its text would read back simpler
        size = size.doit()
    return int(size) if size.is_number else size


def size_text(size: Size) -> str:
    """Text of a size without blanks; `parse_size` reads it back."""
    return str(size) if isinstance(size, int) else _expression_text(size)


@lru_cache(maxsize=4096)
def _expression_text(size: Any) -> str:
    return str(size).replace(" ", "")


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Pow: lambda a, b: a**b,
    ast.FloorDiv: FloorDiv,
    ast.Div: lambda a, b: a / b,
    ast.Mod: Mod,
}
_CALLS: dict[str, Callable[..., Any]] = {
    "Max": sympy.Max,
    "Min": sympy.Min,
    "Mod": Mod,
    "PythonMod": PythonMod,
    "FloorDiv": FloorDiv,
    "CleanDiv": CleanDiv,
}


def parse_size(text: str) -> Size:
    """Read a size expression; never evaluates code.

    Raises:
        CompresscError: CC402 where the text is no size.
    """
    if len(text) < 19 and text.isdecimal() and text.isascii():
        return int(text)
    return _parse_short(text) if len(text) < _SHORT else _parse_expression(text)


_SHORT = 256  # longer ones, which only a stranger's file has, are not remembered


def _parse_expression(text: str) -> Size:
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        return simplify_size(sympy.sympify(_size_of(tree)))
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError) as error:
        raise CompresscError("CC402", "a size is an integer expression", got=text) from error


_parse_short = lru_cache(maxsize=4096)(_parse_expression)


def _size_of(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=int(value)) if not isinstance(value, bool):
            return sympy.Integer(value)
        case ast.Name(id=name):
            return symbol(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_size_of(operand)
        case ast.BinOp(op=ast.Mult()):
            return sympy.Mul(*_factors(node))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            a, b = _size_of(left), _size_of(right)
            huge = a.is_Integer and abs(a) >= 2**32
            if isinstance(op, ast.Pow) and (huge or not (b.is_Integer and abs(b) <= 8)):
                raise ValueError("exponent too large")
            return _BINARY[type(op)](a, b)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _CALLS:
            return _CALLS[name](*map(_size_of, args))
        case _:
            raise ValueError("not a size")


def _factors(node: ast.expr) -> list[Any]:
    """Of a product, all at once: of two alone sympy multiplies out 2*(b + s), of three it does not.

    So what it prints as 2*(b + s)*Max(b, s) would read back otherwise, factor by factor.
    """
    match node:
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return [*_factors(left), *_factors(right)]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return [sympy.Integer(-1), *_factors(operand)]
        case _:
            return [_size_of(node)]


def parse_type(text: str) -> TensorType:
    """Read `f32[b,32,8,8]`.

    Raises:
        CompresscError: CC402 where the text is no tensor type.
    """
    return _parse_short_type(text) if len(text) < _SHORT else _parse_type(text)


def _parse_type(text: str) -> TensorType:
    name, bracket, rest = text.strip().partition("[")
    inside, end, scaling = rest.partition("]")
    if name not in DTYPES or not bracket or not end:
        raise CompresscError(
            "CC402", "a type is written like f32[b,3,32,32]", got=text, hint=", ".join(DTYPES)
        )
    sizes = tuple(parse_size(size) for size in split_top_level(inside))
    return TensorType(DTYPES[name], sizes, parse_number_form(name + scaling) if scaling else None)


_FLAGS = {"true": True, "false": False}


def parse_number_form(text: str) -> NumberForm:
    """Read `i4{axis=0, group=32}`.

    Raises:
        CompresscError: CC402 where the text is no number form.
    """
    name, brace, rest = text.strip().partition("{")
    try:
        if not brace or not rest.endswith("}"):
            raise ValueError("braces stand around what a form says")
        pairs = [item.partition("=")[::2] for item in split_top_level(rest[:-1])]
        values = {key: _FLAGS[text] if text in _FLAGS else int(text) for key, text in pairs}
        return parse_form(name, values)
    except (ValueError, TypeError) as error:
        raise CompresscError(
            "CC402", "a number form is written like i4{axis=0, group=32}", got=f"{text}: {error}"
        ) from error


_parse_short_type = lru_cache(maxsize=4096)(_parse_type)


def evaluate(size: Size, env: Mapping[str, Any]) -> Any:
    """The value of a size with each symbol looked up in `env` (ints, or torch SymInts).

    Raises:
        CompresscError: CC400 where a symbol has no value.
    """
    if isinstance(size, int):
        return size
    return fold_size(size, lambda name: _lookup(name, env), PYTHON_ARITHMETIC)


def _lookup(name: str, env: Mapping[str, Any]) -> Any:
    if name not in env:
        raise CompresscError("CC400", f"size symbol '{name}' has no value", hint=str(sorted(env)))
    return env[name]


#: The operations that sizes are built of; `lowering` gives the same names as graph nodes instead.
PYTHON_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "floordiv": lambda a, b: a // b,
    "mod": lambda a, b: a % b,
    "max": torch.sym_max,
    "min": torch.sym_min,
}


_KINDS = {
    sympy.Add: "add",
    sympy.Mul: "mul",
    FloorDiv: "floordiv",
    CleanDiv: "floordiv",
    Mod: "mod",
    PythonMod: "mod",
    sympy.Max: "max",
    sympy.Min: "min",
}


def fold_size(
    expr: Any, leaf: Callable[[str], Any], arithmetic: Mapping[str, Callable[[Any, Any], Any]]
) -> Any:
    """Evaluate a sympy size bottom-up with the given arithmetic."""
    if expr.is_Integer:
        return int(expr)
    if expr.is_Symbol:
        return leaf(expr.name)
    if isinstance(expr, sympy.Mul) and any(_is_reciprocal(arg) for arg in expr.args):
        # sympy writes n/2 as n * (1/2): divide last, so that integers stay integers
        numerator, denominator = expr.as_numer_denom()
        parts = [fold_size(part, leaf, arithmetic) for part in (numerator, denominator)]
        return arithmetic["floordiv"](*parts)
    if expr.is_Pow and expr.exp.is_Integer and expr.exp > 0:
        factors = [fold_size(expr.base, leaf, arithmetic)] * int(expr.exp)
        return _chain(arithmetic["mul"], factors)
    for kind, name in _KINDS.items():
        if isinstance(expr, kind):
            return _chain(arithmetic[name], [fold_size(arg, leaf, arithmetic) for arg in expr.args])
    for name in ("max", "min"):
        if type(expr).__name__.lower() == name:
            return _chain(arithmetic[name], [fold_size(arg, leaf, arithmetic) for arg in expr.args])
    raise CompresscError("CC400", "a size uses +, *, //, %, Max and Min", got=str(expr))


def _is_reciprocal(arg: Any) -> bool:
    return bool(arg.is_Rational and not arg.is_Integer) or bool(arg.is_Pow and arg.exp.is_negative)


def _chain(operation: Callable[[Any, Any], Any], values: list[Any]) -> Any:
    result = values[0]
    for value in values[1:]:
        result = operation(result, value)
    return result
