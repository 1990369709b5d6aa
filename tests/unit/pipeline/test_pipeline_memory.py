"""What a pass leaves behind is not held while the next one runs; no library ends the run."""

from __future__ import annotations

import gc
import sys
import weakref
from typing import ClassVar

import pytest
import torch

from compressc.errors import CompresscError
from compressc.ir import Graph
from compressc.pipeline import Context, Pass, Pipeline
from tests.unit.pipeline.pipeline_passes import small_graph


class Held:
    """An object in a cycle with itself, as traced modules are, that holds a tensor."""

    def __init__(self) -> None:
        self.tensor, self.me = torch.zeros(1000), self


class Leaves(Pass):
    """Leaves a cycle behind."""

    name: ClassVar[str] = "leaves"
    left: ClassVar[list[weakref.ref[Held]]] = []

    def run(self, graph: Graph, ctx: Context) -> None:
        self.left.append(weakref.ref(Held()))


class Looks(Pass):
    """Sees whether it is still there."""

    name: ClassVar[str] = "looks"
    seen: ClassVar[list[bool]] = []

    def run(self, graph: Graph, ctx: Context) -> None:
        self.seen.append(Leaves.left[-1]() is None)


class Exits(Pass):
    """As a library would that ends the process."""

    name: ClassVar[str] = "exits"

    def run(self, graph: Graph, ctx: Context) -> None:
        sys.exit(0)


def test_cycles_are_gone_before_the_next_pass():
    gc.disable()  # so that nothing but the pipeline collects
    try:
        Pipeline([Leaves(), Looks()]).run(small_graph())
    finally:
        gc.enable()
    assert Looks.seen == [True]


def test_a_pass_that_ends_the_process_is_named():
    with pytest.raises(CompresscError, match="'exits' failed") as caught:
        Pipeline([Exits()]).run(small_graph())
    assert (caught.value.code, caught.value.got) == ("CC601", "SystemExit: 0")
