"""Passes that misbehave in one way each, and a graph for them to work on."""

from __future__ import annotations

import random
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import nn

from compressc.data import Dataset, Split
from compressc.errors import CompresscError
from compressc.ir import Graph, Op, Ref, TensorType, symbol
from compressc.pipeline import Context, Pass


def small_graph(seed: int = 0) -> Graph:
    """Two linear layers with a relu between: f32[b,4] -> f32[b,3]."""
    torch.manual_seed(seed)
    graph = Graph("small")
    sizes = {"x": 4, "a": 5, "relu": 5, "b": 3}
    types = {name: TensorType(torch.float32, (symbol("b"), n)) for name, n in sizes.items()}
    graph.append(Op("x", "input", type=types["x"]))
    graph.append(Op("a", "linear", (Ref("x"),), layer=nn.Linear(4, 5), type=types["a"]))
    graph.append(Op("relu", "relu", (Ref("a"),), layer=nn.ReLU(), type=types["relu"]))
    graph.append(Op("b", "linear", (Ref("relu"),), layer=nn.Linear(5, 3), type=types["b"]))
    graph.outputs = Ref("b")
    return graph


def data(seed: int = 0, labels: bool = True) -> Dataset:
    generator = torch.Generator().manual_seed(seed)

    def split() -> Split:
        x = torch.randn(8, 4, generator=generator)
        return Split((x,), torch.arange(8) % 3 if labels else None)

    return Dataset("random", split(), split(), split())


class Scale(Pass):
    """Multiply the first layer's weight, and count how often that was asked for."""

    name: ClassVar[str] = "scale"
    runs: ClassVar[list[str]] = []

    by: Annotated[float, Field(gt=0, le=8)] = 2.0
    """The factor."""
    seed: int = 7
    """An option that is called like a part of the run."""
    data: str = "none"
    """Another one."""

    def run(self, graph: Graph, ctx: Context) -> None:
        self.runs.append(self.text)
        ctx.note("a", f"scaled by {self.by}")
        ctx.record("factor", self.by)
        with torch.no_grad():
            layer = graph["a"].layer
            layer.weight.mul_(self.by)
        graph.set_layer("a", layer)


class Noise(Pass):
    """Add noise from every global generator."""

    name: ClassVar[str] = "noise"

    def run(self, graph: Graph, ctx: Context) -> None:
        noise = torch.rand(5) + random.random() + float(np.random.rand())
        with torch.no_grad():
            graph["a"].layer.bias.add_(noise)


class Exact(Scale):
    """Says it is exact, and is not unless the factor is 1."""

    name: ClassVar[str] = "exact"
    effect: ClassVar = "exact"


class Break(Pass):
    """Leave the graph broken in a chosen way."""

    name: ClassVar[str] = "break"
    how: str = "shape"
    """Which way."""

    def run(self, graph: Graph, ctx: Context) -> None:
        match self.how:
            case "shape":
                graph.set_layer("a", nn.Linear(4, 6))
            case "kind":
                graph.set_layer("a", nn.ReLU())
            case "output":
                graph.outputs = Ref("relu")
            case "nan":
                nn.init.constant_(graph["a"].layer.weight, float("nan"))
            case "raise":
                raise ZeroDivisionError("a library\nfailed")
            case "own":
                raise CompresscError("CC502", "a loss that falls")


class NeedsData(Pass):
    """Needs data."""

    name: ClassVar[str] = "needs_data"
    needs: ClassVar[frozenset[str]] = frozenset({"data"})

    def run(self, graph: Graph, ctx: Context) -> None:
        ctx.note("a", str(len(ctx.require_data(self.name).train)))


class NeedsLabels(NeedsData):
    """Needs labels, and does not say data."""

    name: ClassVar[str] = "needs_labels"
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})


class First(Scale):
    """Must come before `last`."""

    name: ClassVar[str] = "first"
    before: ClassVar = {"last": "last eats what first makes"}


class Last(Scale):
    """Wants `scale` in front of it."""

    name: ClassVar[str] = "last"
    prelude: ClassVar = ("scale",)


class BadPrelude(Scale):
    """Wants `first` in front of it, which `last` must not follow... unless it comes after."""

    name: ClassVar[str] = "bad_prelude"
    prelude: ClassVar = ("first",)


ALL = (Scale, Noise, Exact, Break, NeedsData, NeedsLabels, First, Last, BadPrelude)
