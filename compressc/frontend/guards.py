"""What a trace took for granted: the branches that the user's code took on sizes.

`if s // 8 == 1` is decided once, while tracing. torch notes each such decision (a *guard*); those
that bound one size are its limits, all others are tried here at other sizes.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import sympy
import torch
from torch import nn
from torch.utils import _pytree as pytree

from compressc.errors import CompresscError
from compressc.ir import Graph
from compressc.ir.graph import dimension_symbols

_SIZE = re.compile(r"(L(?:\[[^\[\]]+\])+)\.size\(\)\[(\d+)\]")
#: Sizes for each dimension, within its limits: primes, small and larger, and multiples of much.
_SIZES = ((5, 37, 53, 71, 89), (2, 101, 149, 197, 251), (36, 240, 168, 264, 312))
#: No size is tried beyond this one.
_LONGEST = 1 << 16


def check_guards(module: nn.Module, program: torch.export.ExportedProgram, graph: Graph) -> None:
    """See that what was decided while tracing holds at other sizes, and limit those it speaks of.

    Raises:
        CompresscError: CC401 with the decision that does not hold, where it is about several sizes,
            or true of the traced size alone.
    """
    guards: list[str] = getattr(program, "_guards_code", None) or []
    places = _places(module, program, graph)
    texts = [
        _SIZE.sub(lambda match: places.get((match[1], int(match[2])), "L"), guard)
        for guard in guards
    ]
    traced = _traced_sizes(program, graph)
    for text in texts:
        names = [name for name in traced if re.search(rf"\b{name}\b", text)]
        if len(names) == 1 and not _always(text, graph):
            _limit(text, names[0], traced[names[0]], graph)
    for text in texts:
        if not _always(text, graph):
            raise _untrue(text, graph)


def _always(text: str, graph: Graph) -> bool:
    return all(_holds(text, sizes) for sizes in _assignments(graph))


def _limit(text: str, name: str, traced: int, graph: Graph) -> None:
    """Keep the run of sizes around the traced one at which the guard holds."""
    lowest, highest = graph.limits.get(name, (1, None))
    least = most = traced
    while least > max(lowest, 2) and _holds(text, {name: least - 1}):
        least -= 1
    while most < (highest or _LONGEST) and _holds(text, {name: most + 1}):
        most += 1
    if least == most:
        raise _untrue(text, graph)
    graph.limits[name] = (lowest if least == 2 else least, highest if most == _LONGEST else most)


def _untrue(text: str, graph: Graph) -> CompresscError:
    return CompresscError("CC401", f"the trace is true only where {text[:200]}", where=graph.name)


def _traced_sizes(program: torch.export.ExportedProgram, graph: Graph) -> dict[str, int]:
    leaves = pytree.tree_leaves(program.example_inputs)
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    found: dict[str, int] = {}
    for op, tensor in zip(graph.inputs, tensors, strict=True):
        for size, length in zip(graph.type_of(op.name).shape, tensor.shape, strict=True):
            if isinstance(size, sympy.Symbol):
                found.setdefault(str(size), length)
    return found


def _places(
    module: nn.Module, program: torch.export.ExportedProgram, graph: Graph
) -> dict[tuple[str, int], str]:
    """(torch's name of an input, dimension) -> its size in the graph."""
    assert program.example_inputs is not None
    args, kwargs = program.example_inputs
    leaves = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    shapes = {
        id(leaf): graph.type_of(op.name).shape
        for leaf, op in zip(leaves, graph.inputs, strict=True)
    }
    bound = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    named, _ = pytree.tree_flatten_with_path(dict(bound))
    return {
        ("L" + "".join(map(str, path)), dim): str(size)
        for path, leaf in named
        for dim, size in enumerate(shapes.get(id(leaf), ()))
    }


def _assignments(graph: Graph) -> list[dict[str, int]]:
    symbols = dimension_symbols(graph)
    return [dict(zip(symbols, _within(graph, symbols, row), strict=False)) for row in _SIZES]


def _within(graph: Graph, symbols: Any, row: tuple[int, ...]) -> list[int]:
    """Sizes inside the limits: as they are, else close to the nearer end."""
    found = []
    for name, size in zip(symbols, row, strict=False):
        least, most = graph.limits.get(name, (1, None))
        found.append(max(least, size if most is None else min(size, most)))
    return found


def _holds(text: str, sizes: dict[str, int]) -> bool:
    """The guard at these sizes; one that speaks of anything else is not ours to judge."""
    try:  # the text is torch's own, made in this process a moment ago
        return bool(eval(text, {"__builtins__": {}, "max": max, "min": min}, dict(sizes)))
    except (NameError, TypeError, SyntaxError, AttributeError):
        return True
