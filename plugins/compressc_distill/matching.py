"""Which inner values of the student are held against which of the teacher."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from compressc.analysis.attention import AttentionLayer
from compressc.distillation import (
    AttentionPair,
    Pair,
    Reading,
    attention_by_depth,
    choose_points,
    find_heads,
    find_pairs,
    pair_attention,
    pairs_by_depth,
    vector_in,
)
from compressc.ir import Graph
from compressc.pipeline import Context
from compressc.tasks import task_of

#: By lineage; by depth, for a student of another family; or by whether it is of another one.
How = Literal["auto", "lineage", "depth"]
#: Feature points, attention layers, and the value that says most of a sample.
Side = tuple[list[str], list[AttentionLayer], str]


@dataclass(frozen=True)
class Matched:
    """Inner values of the student, each with the teacher's that it is held against.

    Attributes:
        points: feature points.
        attention: attention layers.
        heads: the last values with weights before each output.
        vectors: names of the values of student and teacher that say most of a sample; empty where
            nobody reads them.
    """

    points: tuple[Pair, ...] = ()
    attention: tuple[AttentionPair, ...] = ()
    heads: tuple[Pair, ...] = ()
    vectors: tuple[str, str] = ("", "")

    @property
    def values(self) -> tuple[Pair, ...]:
        """Feature points, and behind them the heads."""
        return (*self.points, *self.heads)

    @property
    def of_student(self) -> Side:
        """What is read off the student."""
        points = [pair.student for pair in self.values]
        return points, [pair.student for pair in self.attention], self.vectors[0]

    @property
    def of_teacher(self) -> Side:
        """What is read off the teacher."""
        points = [pair.teacher for pair in self.values]
        return points, [pair.teacher for pair in self.attention], self.vectors[1]

    def missing(self, reads: Collection[Reading]) -> str:
        """What of it an objective would read and there is none of; empty where all is there."""
        if "features" in reads and not self.points:
            return "inner values"
        if "heads" in reads and not self.heads:
            return "values before the outputs that stand for the teacher's"
        return "attention layers" if "attention" in reads and not self.attention else ""

    def __bool__(self) -> bool:
        """Whether anything inner is read."""
        return bool(self.values or self.attention or self.vectors[0])

    @property
    def queried(self) -> list[str]:
        """The student's values that attention layers work with, masks left out."""
        layers = (pair.student for pair in self.attention)
        return [name for x in layers for name in (x.query, x.key, x.value)]

    def basis(self) -> dict[str, list[str]]:
        """What the teacher's answers depend on, as JSON has it."""
        return {
            "points": [pair.teacher for pair in self.values],
            "attention": [pair.teacher.name for pair in self.attention],
            "vectors": [self.vectors[1]],
        }

    def tell(self, ctx: Context) -> None:
        """A note on each."""
        for point in {pair.student: pair for pair in self.values}.values():
            ctx.note(point.student, str(point))
        for layer in self.attention:
            ctx.note(layer.student.name, str(layer))
        if self.vectors[0]:
            text = f"samples are compared by this value, and by the teacher's %{self.vectors[1]}"
            ctx.note(self.vectors[0], text)


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
    teacher, task, vectors = ctx.teacher, task_of(ctx), ("", "")
    if "vectors" in reads:
        vectors = vector_in(graph, task), vector_in(teacher, task)
    outputs = task.value_in(graph), task.value_in(teacher)
    by_depth = how == "depth" or (how == "auto" and not descends(graph, teacher))
    found: list[Pair] = []
    if "features" in reads and by_depth:
        found = pairs_by_depth(graph, teacher, outputs, points)
    elif "features" in reads:
        pairs = find_pairs(graph, teacher)
        found = [pairs[name] for name in choose_points(graph, outputs[0], pairs, points)]
    layers: list[AttentionPair] = []
    if "attention" in reads:
        layers = (attention_by_depth if by_depth else pair_attention)(graph, teacher)
    heads: tuple[Pair, ...] = ()
    if "heads" in reads:
        heads = (_heads_by_output if by_depth else _heads)(graph, ctx)
    return Matched(tuple(found), tuple(layers), heads, vectors)


def descends(graph: Graph, teacher: Graph) -> bool:
    """Whether anything but an input came from the teacher."""
    return any(origin in teacher for op in graph if op.kind != "input" for origin in op.lineage)


def _heads(graph: Graph, ctx: Context) -> tuple[Pair, ...]:
    """The teacher's heads that the student has values for; a note on the others."""
    by_teacher = {pair.teacher: pair for pair in find_pairs(graph, ctx.teacher).values()}
    heads = find_heads(ctx.teacher)
    for name in heads:
        if name not in by_teacher:
            text = f"nothing stands for the teacher's %{name}, which an output is computed from"
            ctx.note(task_of(ctx).value_in(graph), text)
    return tuple(by_teacher[name] for name in heads if name in by_teacher)


def _heads_by_output(graph: Graph, ctx: Context) -> tuple[Pair, ...]:
    """Of each output that is computed from one head in both, these heads, where shapes agree."""
    found = {}
    for ours, theirs in zip(graph.output_names, ctx.teacher.output_names, strict=True):
        heads = find_heads(graph, [ours]), find_heads(ctx.teacher, [theirs])
        if [len(side) for side in heads] == [1, 1]:
            (mine,), (its,) = heads
            shapes = (g.type_of(name).shape for g, name in ((graph, mine), (ctx.teacher, its)))
            if len(set(map(str, shapes))) == 1:
                found[its] = Pair(mine, its)
                continue
        ctx.note(ours, "no one value before it stands for the teacher's: not in the term values")
    return tuple(found.values())
