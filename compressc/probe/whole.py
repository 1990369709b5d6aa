"""A whole graph with a part of each of its widths, as a file to be timed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from compressc.analysis import Coupling
from compressc.backend import load_backend
from compressc.editing import cut_widths
from compressc.ir import Graph, dimension_symbols, evaluate
from compressc.probe.extents import Left

#: The back end whose files are timed.
BACKEND = "onnx"


def emit_part(
    graph: Graph,
    found: Coupling,
    left: Left,
    folder: Path,
    example: tuple[torch.Tensor, ...],
) -> Path:
    """Write the graph with the first indices of each width; the file computes nothing of use.

    Args:
        graph: not changed.
        found: its coupling.
        left: leaf of a width -> indices that are left.
        folder: made where missing.
        example: inputs of the graph, `[n, ...]`.

    Raises:
        CompresscError: CC503 where no file can be written.
    """
    cut = {leaf: torch.arange(size) for leaf, size in left.items() if size < leaf.size}
    copy = graph
    if cut:
        copy = graph.copy()
        cut_widths(copy, found, cut)
    return load_backend(BACKEND).emit(copy, folder, example)


def read_by(graph: Graph, sizes: Mapping[str, int], batch: int) -> list[dict[str, Any]]:
    """Dtype and shape of each input of a graph.

    Args:
        graph: the model.
        sizes: of its open dimensions, the batch not counted.
        batch: size of every first dimension that is open.
    """
    first = {name: batch for name, (_, dim) in dimension_symbols(graph).items() if dim == 0}
    env = graph.size_env(**{**sizes, **first})
    found = []
    for op in graph.inputs:
        type_ = graph.type_of(op.name)
        shape = [int(evaluate(size, env)) for size in type_.shape]
        found.append({"dtype": str(type_.dtype).removeprefix("torch."), "shape": shape})
    return found
