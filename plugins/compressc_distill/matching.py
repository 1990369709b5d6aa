"""Which inner values of the student are held against which of the teacher."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from compressc.distillation import (
    AttentionPair,
    Pair,
    Reading,
    attention_by_depth,
    choose_points,
    find_pairs,
    pair_attention,
    pairs_by_depth,
)
from compressc.ir import Graph
from compressc.pipeline import Context
from compressc.tasks import task_of

#: By lineage; by depth, for a student of another family; or by whether it is of another one.
How = Literal["auto", "lineage", "depth"]


@dataclass(frozen=True)
class Matched:
    """Inner values of the student, each with the teacher's that it is held against.

    Attributes:
        points: feature points.
        attention: attention layers.
    """

    points: tuple[Pair, ...] = ()
    attention: tuple[AttentionPair, ...] = ()

    def missing(self, reads: Collection[Reading]) -> str:
        """What of it an objective would read and there is none of; empty where all is there."""
        if "features" in reads and not self.points:
            return "inner values"
        return "attention layers" if "attention" in reads and not self.attention else ""

    @property
    def queried(self) -> list[str]:
        """The student's values that attention layers work with, masks left out."""
        layers = (pair.student for pair in self.attention)
        return [name for x in layers for name in (x.query, x.key, x.value)]

    def basis(self) -> dict[str, list[str]]:
        """What the teacher's answers depend on, as JSON has it."""
        return {
            "points": [pair.teacher for pair in self.points],
            "attention": [pair.teacher.name for pair in self.attention],
        }

    def tell(self, ctx: Context) -> None:
        """A note on each."""
        for point in self.points:
            ctx.note(point.student, str(point))
        for layer in self.attention:
            ctx.note(layer.student.name, str(layer))


def match(
    graph: Graph, ctx: Context, reads: Collection[Reading], points: int, how: How = "auto"
) -> Matched:
    """What objectives that read this have to go by.

    Args:
        graph: the student.
        ctx: of the pass.
        reads: what they read.
        points: at how many ends of blocks features are matched.
        how: see `How`.
    """
    if how == "depth" or (how == "auto" and not _descends(graph, ctx.teacher)):
        return _by_depth(graph, ctx, reads, points)
    found: tuple[Pair, ...] = ()
    if "features" in reads:
        pairs = find_pairs(graph, ctx.teacher)
        chosen = choose_points(graph, task_of(ctx).value_in(graph), pairs, points)
        found = tuple(pairs[name] for name in chosen)
    layers = pair_attention(graph, ctx.teacher) if "attention" in reads else []
    return Matched(found, tuple(layers))


def _by_depth(graph: Graph, ctx: Context, reads: Collection[Reading], points: int) -> Matched:
    teacher, task = ctx.teacher, task_of(ctx)
    found, layers = [], []
    if "features" in reads:
        outputs = task.value_in(graph), task.value_in(teacher)
        found = pairs_by_depth(graph, teacher, outputs, points)
    if "attention" in reads:
        layers = attention_by_depth(graph, teacher)
    return Matched(tuple(found), tuple(layers))


def _descends(graph: Graph, teacher: Graph) -> bool:
    """Whether anything but an input came from the teacher."""
    return any(origin in teacher for op in graph if op.kind != "input" for origin in op.lineage)
