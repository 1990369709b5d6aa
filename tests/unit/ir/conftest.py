"""Every network of the shared zoo as a graph, imported once."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

from compressc.frontend import export_module, import_program
from compressc.ir import Graph
from tests.models import ZOO

torch.set_num_threads(1)  # threads that wait for each other cost more than these networks


@lru_cache
def _imported(name: str) -> Graph:
    module, example = ZOO[name]()
    return import_program(export_module(module, example), name)


@pytest.fixture(params=sorted(ZOO))
def graph(request: pytest.FixtureRequest) -> Graph:
    """A private copy of one network's graph."""
    return _imported(request.param).copy()


@pytest.fixture
def digits() -> Graph:
    """The digits CNN."""
    return _imported("digits_cnn").copy()


@pytest.fixture
def vit() -> Graph:
    """The vision transformer."""
    return _imported("vit").copy()


@pytest.fixture
def tied() -> Graph:
    """A language model whose head shares the embedding's weight."""
    return _imported("tied_weights").copy()
