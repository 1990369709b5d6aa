"""What a trace took for granted: the branches that the user's code took on sizes.

`if s // 8 == 1` is decided once, while tracing. torch notes each such decision (a *guard*); those
that bound one size are its limits, all others are tried here at other sizes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from itertools import chain, count

import torch
from torch import nn
from torch.utils import _pytree as pytree

from compressc.errors import CompresscError
from compressc.frontend.inputs.arguments import tensors_of
from compressc.frontend.inputs.specs import open_sizes
from compressc.ir import Graph, dimension_symbols

_SIZE = re.compile(r"(L(?:\[[^\[\]]+\])+)\.size\(\)\[(\d+)\]")
#: Sizes to try: those of the first dimensions, where further ones go on, and in which steps.
#: Primes, small and larger, and multiples of much.
_SIZES = (
    ((5, 37, 53, 71, 89), 97, 2),
    ((2, 101, 149, 197, 251), 257, 2),
    ((36, 240, 168, 264, 312), 360, 24),
)
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
    traced = open_sizes(graph, tensors_of(program.example_inputs))
    samples = _samples(graph)
    for text in texts:
        names = [name for name in traced if re.search(rf"\b{name}\b", text)]
        if len(names) == 1 and not _always(text, samples):
            _limit(text, names[0], traced[names[0]], graph)
            samples = _samples(graph)
    for text in texts:
        if not _always(text, samples):
            raise _untrue(text, graph)


def _always(text: str, samples: Iterable[Mapping[str, int]]) -> bool:
    return all(_holds(text, sizes) for sizes in samples)


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
    return CompresscError(
        "CC401",
        f"the trace is true only where {text[:200]}",
        where=graph.name,
        hint="forward() may not do other things at other batch sizes",
    )


def _places(
    module: nn.Module, program: torch.export.ExportedProgram, graph: Graph
) -> dict[tuple[str, int], str]:
    """(torch's name of an input, dimension) -> its size in the graph."""
    assert program.example_inputs is not None
    args, kwargs = program.example_inputs
    shapes = {
        id(leaf): graph.type_of(op.name).shape
        for leaf, op in zip(tensors_of((args, kwargs)), graph.inputs, strict=True)
    }
    bound = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    named, _ = pytree.tree_flatten_with_path(dict(bound))
    return {
        ("L" + "".join(map(str, path)), dim): str(size)
        for path, leaf in named
        for dim, size in enumerate(shapes.get(id(leaf), ()))
    }


def _samples(graph: Graph) -> list[dict[str, int]]:
    """Sizes for every open dimension, within its limits."""
    names = dimension_symbols(graph)
    rows = (chain(first, count(start, step)) for first, start, step in _SIZES)
    return [
        {name: graph.within_limits(name, size) for name, size in zip(names, row, strict=False)}
        for row in rows
    ]


def _holds(text: str, sizes: Mapping[str, int]) -> bool:
    """The guard at these sizes; one that speaks of anything else is not ours to judge."""
    try:  # the text is torch's own, made in this process a moment ago
        return bool(eval(text, {"__builtins__": {}, "max": max, "min": min}, dict(sizes)))
    except (NameError, TypeError, SyntaxError, AttributeError):
        return True
