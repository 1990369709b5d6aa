"""Layers that a user wants left as they are: `keep="head.*"`."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import BeforeValidator

from compressc.analysis import Axis, Width
from compressc.errors import CompresscError
from compressc.ir import Graph, layer_tensors
from compressc.plugins import nearest


def protected(graph: Graph, widths: Sequence[Width], patterns: Sequence[str]) -> dict[Axis, str]:
    """Leaf axis of each width that a protected layer has -> why it stays.

    Args:
        graph: the graph.
        widths: of its coupling.
        patterns: of names of ops or of their tensors (`encoder.*`, `head.weight`), `*` and `?` as
            in a shell.

    Raises:
        CompresscError: CC102 for a pattern that matches nothing.
    """
    kept = matching(graph, patterns, "prune")
    return {
        width.axis: f"keep={kept[slot.op]} protects %{slot.op}"
        for width in widths
        for slot in width.slots
        if slot.op in kept
    }


def matching(graph: Graph, patterns: Sequence[str], name: str) -> dict[str, str]:
    """Ops with layers that a pattern means -> that pattern.

    Args:
        graph, patterns: as for `protected`.
        name: of the pass, for the message.

    Raises:
        CompresscError: CC102 for a pattern that matches nothing.
    """
    names = {op.name: _names(graph, op.name) for op in graph if op.layer is not None}
    kept: dict[str, str] = {}
    for pattern in patterns:
        found = [op for op, known in names.items() if any(fnmatchcase(n, pattern) for n in known)]
        if not found:
            raise CompresscError(
                "CC102",
                f"option 'keep' of pass '{name}' must match the name of a layer",
                got=repr(pattern),
                hint=nearest(pattern, names),
            )
        kept |= dict.fromkeys(found, pattern)
    return kept


def patterns_in(given: object) -> object:
    """What was given for an option of patterns: one text holds several, parted by commas."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list | tuple) or not all(isinstance(t, str) for t in texts):
        return given
    return tuple(part.strip() for text in texts for part in text.split(",") if part.strip())


#: An option of such patterns.
Patterns = Annotated[tuple[str, ...], BeforeValidator(patterns_in)]


def _names(graph: Graph, name: str) -> list[str]:
    layer = graph[name].layer
    return [name, *(f"{name}.{local}" for local, _ in layer_tensors(layer))] if layer else [name]
