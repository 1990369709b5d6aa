"""Graphs that the tests of the pass share."""

from __future__ import annotations

import torch

from compressc.data import Dataset, Split
from compressc.ir import Graph
from compressc.testing import export_graph
from tests.models import Vit
from tests.unit.analysis.test_analysis_chains import Stack


def vit(blocks: int = 4) -> Graph:
    torch.manual_seed(0)
    return export_graph(Vit(blocks=blocks).eval(), torch.randn(2, 1, 8, 8), name="vit")


def stack(depth: int = 6, inner: bool = False) -> Graph:
    torch.manual_seed(0)
    return export_graph(Stack(depth, inner).eval(), torch.randn(2, 6), name="stack")


def rows(*shape: int, count: int = 64) -> Dataset:
    """Unlabelled normal inputs."""
    part = Split((torch.randn(count, *shape, generator=torch.Generator().manual_seed(3)),))
    return Dataset("rows", part, part, part)
