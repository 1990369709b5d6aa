"""Where a sample may leave a network, and what answers there."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import networkx as nx
import torch
from torch import nn

from compressc.analysis import op_costs, sizes_of
from compressc.distillation import block_ends
from compressc.errors import CompresscError
from compressc.ir import Graph, Op, Ref, TensorType
from compressc.pipeline import Context
from compressc.tasks import task_of

#: Of an error that lists places.
_SHOWN = 8


@dataclass(frozen=True)
class Place:
    """A value that an exit reads.

    Attributes:
        name: of the value.
        share: of the multiply-accumulates of the model that are spent up to it.
    """

    name: str
    share: float

    def __str__(self) -> str:
        """`%relu, behind 12% of the multiply-accumulates`."""
        return f"%{self.name}, behind {self.share:.0%} of the multiply-accumulates"


def choose_places(graph: Graph, ctx: Context, at: Sequence[float | str]) -> list[Place]:
    """The places that were asked for, in the order of the graph.

    A share is that of the multiply-accumulates: the end of a block nearest to it. A name is that of
    any value that a layer comes behind.

    Raises:
        CompresscError: CC105 where the model has no place to leave; CC102 for a name that is no
            such place, and where two of them are one.
    """
    final, shares = task_of(ctx).value_in(graph), _shares(graph, ctx)
    ends = [name for name in block_ends(graph, final) if not _refusal(graph, name, final, shares)]
    if not ends and not any(isinstance(part, str) for part in at):
        raise CompresscError(
            "CC105",
            "pass 'exits' needs a place inside the model, with layers before and behind it",
            got="nothing to exit from",
            hint="a model of one layer has no shallow part",
        )
    found: dict[str, Place] = {}
    for part in at:
        name = part if isinstance(part, str) else min(ends, key=lambda n: abs(shares[n] - part))
        why = _refusal(graph, name, final, shares)
        if why or name in found:
            near = difflib.get_close_matches(name, ends, 3) or ends[:_SHOWN]
            raise CompresscError(
                "CC102",
                "option 'at' of pass 'exits' names places inside the model, each once",
                got=f"{part}: {why or f'%{name} is there already'}",
                hint=f"ends of blocks are {', '.join(near)}" if near else "",
            )
        found[name] = Place(name, shares[name])
    return [found[op.name] for op in graph if op.name in found]


def _shares(graph: Graph, ctx: Context) -> dict[str, float]:
    """Value -> the share of the multiply-accumulates that it takes to compute it."""
    costs = {n: c.macs for n, c in op_costs(graph, **sizes_of(graph, ctx.example())).items()}
    total = max(sum(costs.values()), 1)
    return {
        op.name: sum(costs[n] for n in (*nx.ancestors(graph.dag, op.name), op.name)) / total
        for op in graph
    }


def _refusal(graph: Graph, name: str, final: str, shares: dict[str, float]) -> str:
    """Why no sample can leave there; empty where it can."""
    if name not in graph:
        return "there is no such op"
    type_ = graph[name].type
    behind = nx.has_path(graph.dag, name, final) and name != final
    if not behind or shares[name] >= shares[final]:
        return "an exit at the output: no layer comes behind it"
    if shares[name] <= 0:
        return "no layer comes before it"
    if not isinstance(type_, TensorType) or not type_.dtype.is_floating_point:
        return "no tensor of floats"
    rank = len(type_.shape)
    if not 2 <= rank <= 4 or isinstance(type_.shape[0], int):
        return "no vectors, sequences or maps, one for each sample"
    width = type_.shape[1 if rank == 4 else -1]
    return "" if isinstance(width, int) else "its channels are not a fixed number"


@dataclass(frozen=True)
class Head:
    """What answers at a place: cells of a map are averaged, then two linear layers behind a norm.

    Attributes:
        classes: to choose from.
        cells: of a map, on each side; maps of open sizes, and sequences, have one mean.
        hidden: width between the two layers; 0 for one layer.
    """

    classes: int
    cells: int
    hidden: int

    def add(self, graph: Graph, at: str, name: str, seed: int) -> str:
        """Put it behind a value.

        Args:
            graph: edited in place.
            at: name of the value, a vector `[b, d]`, sequence `[b, s, d]` or map `[b, c, h, w]`.
            name: of what the class scores `[b, classes]` are to be called.
            seed: of its weights.

        Returns:
            The name of the class scores.
        """
        name, (pooling, width) = graph.fresh_name(name), self._pooled(graph, at, name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            steps: list[tuple[str, nn.Module]] = [("norm", nn.LayerNorm(width))]
            if self.hidden:
                steps += [("hidden", nn.Linear(width, self.hidden)), ("act", nn.ReLU())]
            steps.append(("", nn.Linear(self.hidden or width, self.classes)))
        kinds = {"norm": "layer_norm", "hidden": "linear", "act": "relu", "": "linear"}
        layers = [
            Op(f"{name}.{part}" if part else name, kinds[part], layer=layer)
            for part, layer in steps
        ]
        before = at
        batch = graph.type_of(at).shape[0]
        for op in (*pooling, *layers):
            op.args = op.args or (Ref(before),)
            if op.layer is not None and op.kind != "avg_pool2d":
                width = getattr(op.layer, "out_features", width)
                op.type = TensorType(graph.type_of(at).dtype, (batch, width))
            graph.insert_after(before, op)
            op.lineage = ()  # it stands for nothing that the teacher has
            before = op.name
        return name

    def _pooled(self, graph: Graph, at: str, name: str) -> tuple[list[Op], int]:
        """Ops that make one vector of a value, and its width."""
        type_ = graph.type_of(at)
        rank = len(type_.shape)
        if rank == 2:
            return [], _number(type_.shape[1])
        if rank == 3:
            return [Op(f"{name}.mean", "aten.mean.dim", (Ref(at), (1,)))], _number(type_.shape[2])
        channels, *sides = type_.shape[1:]
        if self.cells == 1 or not all(isinstance(n, int) and n >= self.cells for n in sides):
            mean = Op(f"{name}.mean", "aten.mean.dim", (Ref(at), (2, 3)))
            return [mean], _number(channels)
        windows = [_number(side) // self.cells for side in sides]
        cells = [_number(n) // window for n, window in zip(sides, windows, strict=True)]
        pool = nn.AvgPool2d((windows[0], windows[1]))
        pooling = [
            Op(f"{name}.pool", "avg_pool2d", layer=pool),
            Op(f"{name}.flat", "aten.flatten.using_ints", (Ref(f"{name}.pool"), 1)),
        ]
        return pooling, _number(channels) * cells[0] * cells[1]


def _number(size: object) -> int:
    assert isinstance(size, int)
    return size
