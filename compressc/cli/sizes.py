"""Sizes on the command line: of batches, and of the open dimensions that costs are given for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from compressc.errors import CompresscError

if TYPE_CHECKING:
    from compressc.ir import Graph

BatchOption = Annotated[
    int, typer.Option("--batch", min=1, max=10**9, help="Batch size that costs are given for.")
]
SizeOption = Annotated[
    list[str] | None,
    typer.Option("--size", help="Size of another open dimension: s=256 (128 if not given)."),
]
_ASSIGNMENT = re.compile(r"([A-Za-z]\w*)=(\d{1,9})$")
#: What dimensions beside the batch are taken to be: a short text.
_DEFAULT = 128


def open_sizes_of(
    graphs: Iterable[Graph], batch: int, given: Sequence[str] | None
) -> dict[str, int]:
    """A size for every open dimension of the graphs, within the limits they set.

    Raises:
        CompresscError: CC100 for text that is no size, or of no open dimension.
    """
    from compressc.ir import dimension_symbols

    wanted = dict(_parse(text) for text in given or ())
    sizes: dict[str, int] = {}
    for graph in graphs:
        for name in dimension_symbols(graph):
            asked = wanted.get(name, batch if name == "b" else sizes.get(name, _DEFAULT))
            sizes[name] = asked if name in wanted else graph.within_limits(name, asked)
    for name in wanted:
        if name not in sizes:
            raise CompresscError(
                "CC100",
                f"--size is of an open dimension, not '{name}'",
                got=", ".join(sizes) or "a model without any",
            )
    return sizes


def sizes_text(sizes: Mapping[str, int]) -> str:
    """`at b=1, s=128`; empty where nothing is open."""
    texts = [f"{name}={size}" for name, size in sizes.items()]
    return f"at {', '.join(texts)}" if texts else ""


def _parse(text: str) -> tuple[str, int]:
    match = _ASSIGNMENT.match(text.strip())
    if match is None or not int(match[2]):
        raise CompresscError("CC100", "a size is written like s=256", got=text, where="--size")
    return match[1], int(match[2])


def batch_sizes(text: str) -> list[int]:
    """`1,64` as numbers; empty for none.

    Raises:
        CompresscError: CC100 for anything else.
    """
    try:
        sizes = [int(item) for item in text.split(",") if item.strip()]
        if min(sizes, default=1) < 1:
            raise ValueError(text)
    except ValueError:
        raise CompresscError(
            "CC100", "--batches are positive integers", got=repr(text), hint="--batches 1,64"
        ) from None
    return sizes
