"""What a model is fed while it is traced: `--input "x: f32[b,3,32,32]"` as tensors."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sympy
import torch
from torch import nn

from compressc.errors import CompresscError
from compressc.frontend.inputs.arguments import Arguments, nest
from compressc.ir import Graph, Ref, TensorType, dimension_symbols, parse_type
from compressc.ir.printer import limit_text
from compressc.ir.types import evaluate

#: Sizes stand-ins for open dimensions: distinct primes, so that none is taken for another or for a
#: real width. The first is the batch.
_SIZES = (5, 11, 13, 17, 19, 23)
#: Numbers of one example input.
_MOST_NUMBERS = 1 << 30
_PATH = re.compile(r"[^\W\d]\w*(\.[\w-]+)*")
_CONSTANT = re.compile(r"True|False|None|-?\d+(\.\d*)?(e-?\d+)?|'[^'\\]*'|\"[^\"\\]*\"")


@dataclass(frozen=True)
class InputSpec:
    """One input of a model: where it goes in `forward` (`x`, `batch.ids`, or none), its type."""

    name: str
    type: TensorType


@dataclass(frozen=True)
class ConstantSpec:
    """One argument of `forward` that is no tensor: a flag, a number, None."""

    name: str
    value: bool | int | float | str | None


def parse_input(text: str) -> InputSpec | ConstantSpec:
    """Read `x: f32[b,1,8,8]`, `f32[b,1,8,8]`, `batch.ids: i64[b,s]`, or `flag: True`.

    Raises:
        CompresscError: CC204 where the text is no input.
    """
    name, colon, type_text = text.rpartition(":")
    name = name.strip()
    if colon and not _PATH.fullmatch(name):
        raise _bad(text, f"the name {name!r}")
    if _CONSTANT.fullmatch(type_text.strip()):
        return ConstantSpec(name, ast.literal_eval(type_text.strip()))
    try:
        type_ = parse_type(type_text)
    except CompresscError as error:
        raise _bad(text, error.got) from error
    if not all(isinstance(size, int) or size.is_Symbol for size in type_.shape):
        raise _bad(text, "an expression as a size")
    if any(isinstance(size, int) and size < 0 for size in type_.shape):
        raise _bad(text, "a negative size")
    return InputSpec(name, type_)


def place_inputs(
    specs: Sequence[InputSpec | ConstantSpec], tensors: Sequence[torch.Tensor]
) -> Arguments:
    """Tensors, one for each input described, where the descriptions put them.

    Raises:
        CompresscError: CC204 where there are more or fewer, or the names contradict each other.
    """
    wanted = sum(isinstance(spec, InputSpec) for spec in specs)
    if wanted != len(tensors):
        raise CompresscError(
            "CC204", f"there are {wanted} inputs described", got=f"{len(tensors)} tensors"
        )
    spare = iter(tensors)
    return nest([(s.name, s.value if isinstance(s, ConstantSpec) else next(spare)) for s in specs])


def check_inputs(graph: Graph, tensors: Sequence[torch.Tensor], where: str = "") -> None:
    """Tensors fit a graph's inputs: as many, of these dtypes and sizes, ids that a table has.

    Args:
        graph: the model.
        tensors: one for each input.
        where: what they are, for the error.

    Raises:
        CompresscError: CC204 naming the input at fault.
    """
    wanted = [graph.type_of(op.name) for op in graph.inputs]
    if len(wanted) != len(tensors):
        text = f"the inputs of the model are {', '.join(map(str, wanted)) or 'none'}"
        got = f"{len(tensors)} arrays"
        hint = "check the data set or --input"
        raise CompresscError("CC204", text, got=got, where=where, hint=hint)
    open_sizes: dict[str, int] = {}
    for op, type_, tensor in zip(graph.inputs, wanted, tensors, strict=True):
        fits = tensor.dtype == type_.dtype and tensor.dim() == len(type_.shape)
        for size, length in zip(type_.shape, tensor.shape, strict=False):
            # an open dimension takes any size, but the same one everywhere
            wanted_size = (
                size if isinstance(size, int) else open_sizes.setdefault(str(size), length)
            )
            fits &= wanted_size == length
        if not fits:
            text = f"input '{op.name}' must be {type_}"
            got = f"{_dtype_name(tensor.dtype)} {list(tensor.shape)}"
            hint = "check the data set or --input"
            if tensor.dtype != type_.dtype:
                hint = f"give it as {_dtype_name(type_.dtype)}, or {hint}"
            raise CompresscError("CC204", text, got=got, where=where, hint=hint)
    for name, (least, most) in graph.limits.items():
        size = open_sizes.get(name, least)
        if size < least or (most is not None and size > most):
            text = f"the model takes {limit_text(name, least, most)}"
            got = f"{name} = {size}"
            raise CompresscError("CC204", text, got=got, where=where or graph.name)
    _check_ids(graph, tensors, where)


def _check_ids(graph: Graph, tensors: Sequence[torch.Tensor], where: str) -> None:
    """Integers that go straight into a table of embeddings are rows of it."""
    given = {op.name: tensor for op, tensor in zip(graph.inputs, tensors, strict=True)}
    for op in graph:
        if op.kind != "embedding" or not isinstance(op.args[0], Ref):
            continue
        source = op.args[0].name
        ids = given.get(source)
        if ids is None or ids.is_meta or not ids.numel():
            continue
        assert isinstance(op.layer, nn.Embedding)
        low, high, rows = int(ids.min()), int(ids.max()), op.layer.num_embeddings
        if low < 0 or high >= rows:
            raise CompresscError(
                "CC204",
                f"input '{source}' holds ids from 0 to {rows - 1}, the rows of '{op.name}'",
                got=str(low if low < 0 else high),
                where=where,
                hint="give the ids of the model's own vocabulary",
            )


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _are_floats(*types: TensorType) -> bool:
    return all(type_.dtype.is_floating_point for type_ in types)


def check_specs(graph: Graph, specs: Sequence[InputSpec | ConstantSpec]) -> None:
    """Inputs in words do not contradict those of a model that was traced before.

    Raises:
        CompresscError: CC204 naming the input at fault.
    """
    types = [spec.type for spec in specs if isinstance(spec, InputSpec)]
    wanted = [graph.type_of(op.name) for op in graph.inputs]
    fits = len(types) == len(wanted) and all(
        (ours.dtype == theirs.dtype or _are_floats(ours, theirs))  # converted when they are read
        and len(ours.shape) == len(theirs.shape)
        and all(
            size == said or not isinstance(size, int)
            for size, said in zip(ours.shape, theirs.shape, strict=True)
        )
        for ours, theirs in zip(wanted, types, strict=True)
    )
    if not fits:
        raise CompresscError(
            "CC204",
            f"the model was exported with the inputs {', '.join(map(str, wanted))}",
            got=", ".join(map(str, types)) or "no tensor",
            where="--input",
            hint="leave --input out, or export the model with these inputs",
        )


def open_sizes(graph: Graph, tensors: Sequence[torch.Tensor]) -> dict[str, int]:
    """The size that inputs, which fit the graph, give each open dimension."""
    given = {op.name: tensor for op, tensor in zip(graph.inputs, tensors, strict=True)}
    places = dimension_symbols(graph).items()
    return {dimension: given[name].shape[dim] for dimension, (name, dim) in places}


def _bad(text: str, got: str) -> CompresscError:
    return CompresscError(
        "CC204",
        'an input is written like "x: f32[b,3,32,32]"',
        got=got or text,
        where=f"--input {text}",
        hint="f32, i64, bool, ...; letters for open dimensions (b: batch), numbers for fixed ones",
    )


def make_example(
    specs: Sequence[InputSpec | ConstantSpec], seed: int = 0
) -> tuple[torch.Tensor, ...]:
    """Random tensors of these types: normal numbers; 0 or 1 for integers (valid token ids)."""
    generator = torch.Generator().manual_seed(seed)
    wanted = [spec for spec in specs if isinstance(spec, InputSpec)]
    sizes = _symbol_sizes(wanted)
    return tuple(_tensor(spec.type, sizes, generator) for spec in wanted)


def _symbol_sizes(specs: Sequence[InputSpec]) -> Mapping[str, int]:
    names: dict[str, None] = {}
    for spec in specs:
        names |= {str(size): None for size in spec.type.shape if isinstance(size, sympy.Symbol)}
    spare = [*_SIZES, *range(25, 25 + 2 * len(names), 2)]
    return dict(zip(names, spare, strict=False))


def _tensor(
    type_: TensorType, sizes: Mapping[str, int], generator: torch.Generator
) -> torch.Tensor:
    shape = [evaluate(size, sizes) for size in type_.shape]
    if math.prod(shape) > _MOST_NUMBERS:
        got = f"{math.prod(shape):,}"
        raise CompresscError(
            "CC204", f"an example input of at most {_MOST_NUMBERS:,} numbers", got=got
        )
    if type_.dtype.is_floating_point or type_.dtype.is_complex:
        return torch.randn(shape, generator=generator).to(type_.dtype)
    return torch.randint(0, 2, shape, generator=generator).to(type_.dtype)
