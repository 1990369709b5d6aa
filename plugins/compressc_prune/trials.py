"""Cuts that are only tried: a copy of the graph, cut, for as long as it is looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from compressc.analysis import Coupling, Width
from compressc.editing import cut_widths
from compressc.ir import Graph


@contextmanager
def scratch_copy(graph: Graph) -> Iterator[Graph]:
    """A copy of the graph to be edited; its weights are let go afterwards."""
    copy = graph.copy()
    try:
        yield copy
    finally:  # it lies in cycles, and would hold its weights until the collector looks
        for op in copy:
            for table in () if op.layer is None else (op.layer._parameters, op.layer._buffers):
                table.clear()


@contextmanager
def cut_copy(graph: Graph, found: Coupling, kept: Mapping[Width, torch.Tensor]) -> Iterator[Graph]:
    """A scratch copy of the graph after a cut.

    Args:
        graph: not changed.
        found: its coupling.
        kept: the indices i64[k] of widths that stay.
    """
    with scratch_copy(graph) as copy:
        cut_widths(copy, found, {width.axis: rest for width, rest in kept.items()})
        yield copy
