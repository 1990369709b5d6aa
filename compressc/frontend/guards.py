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

_SIZE = re.compile(r"(L(?:\[[^\[\]]+\])+)\.size\(\)\[(\d+)\]")
#: Sizes for each dimension, within its limits: primes, small and larger, and multiples of much.
_SIZES = ((5, 37, 53, 71, 89), (2, 101, 149, 197, 251), (36, 240, 168, 264, 312))


def check_guards(module: nn.Module, program: torch.export.ExportedProgram, graph: Graph) -> None:
    """See that what was decided while tracing holds at other sizes.

    Raises:
        CompresscError: CC401 with the decision that does not.
    """
    guards: list[str] = getattr(program, "_guards_code", None) or []
    places = _places(module, program, graph)
    for sizes in _assignments(graph):
        for guard in guards:
            text = _SIZE.sub(lambda match: places.get((match[1], int(match[2])), "L"), guard)
            if not _holds(text, sizes):
                raise CompresscError(
                    "CC401",
                    f"the trace is true only where {text}",
                    got=", ".join(f"{name} = {size}" for name, size in sizes.items()),
                    where=graph.name,
                )


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
    symbols: dict[str, None] = {}
    for op in graph.inputs:
        for size in graph.type_of(op.name).shape:
            if isinstance(size, sympy.Symbol):
                symbols[str(size)] = None
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
