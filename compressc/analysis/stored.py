"""Bytes of what a graph holds, by the type of its numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from compressc.ir import Graph
from compressc.ir.quantized import stored_types
from compressc.ir.types import DTYPE_NAMES

_MEGABYTE = 10**6


def bytes_by_type(graph: Graph) -> dict[str, int]:
    """`{"u4": 5308416, "f32": 1327104}`, the largest first; a tensor that is shared counts once.

    Numbers of 4 bits take half a byte each, and so they count.
    """
    found: Counter[str] = Counter()
    seen: set[int] = set()
    for op in graph:
        for _, tensor, type_ in stored_types(op):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                found[DTYPE_NAMES.get(type_.dtype, str(type_.dtype))] += tensor.nbytes
    return dict(found.most_common())


def types_text(found: Mapping[str, int]) -> str:
    """`u4 11.4 MB, f32 2.9 MB`; types of no bytes worth a mention are added up."""
    return ", ".join(f"{name} {_size(size)}" for name, size in found.items()) or "none"


def _size(size: int) -> str:
    return f"{size / _MEGABYTE:.1f} MB" if size >= _MEGABYTE else f"{size / 1000:.1f} kB"
