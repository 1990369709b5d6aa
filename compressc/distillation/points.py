"""Which inner values of the student are held against which of the teacher.

Read off the lineage: a student op says which teacher op's value it stands for (the last of its
lineage) and which teacher channels are left in it (`kept`). So pairs need no names and no projector
that would have to be trained: the student's channel is compared with the very teacher channel it
came from.

A student that does not descend from the teacher has no lineage. Its pairs go by depth: ends of
blocks evenly spaced in both, whose widths, and the sizes of maps, may differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

import networkx as nx
import torch
from torch import Tensor

from compressc.ir import Graph, Op, TensorType
from compressc.ir.types import Size

_SUM = "aten.add.Tensor"
T = TypeVar("T")


@dataclass(frozen=True)
class Pair:
    """A student value and the teacher value it stands for.

    Attributes:
        student, teacher: names of the values.
        kept: dimension -> teacher indices left in the student's value.
        by_depth: it is as deep, but does not descend from it.
    """

    student: str
    teacher: str
    kept: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    by_depth: bool = False

    def select(self, feature: Tensor) -> Tensor:
        """The part of the teacher's value that the student still has."""
        for dim, indices in self.kept.items():
            index = torch.tensor(indices, device=feature.device)
            feature = feature.index_select(dim, index)
        return feature

    def __str__(self) -> str:
        """`matched with the teacher's %a, the 16 kept indices of dimension 1`."""
        cut = "".join(
            f", the {len(index)} kept indices of dimension {dim}"
            for dim, index in self.kept.items()
        )
        how = " by depth" if self.by_depth else ""
        return f"matched{how} with the teacher's %{self.teacher}{cut}"


def find_pairs(student: Graph, teacher: Graph) -> dict[str, Pair]:
    """Every student value that stands for a teacher value of the same shape but for cut channels.

    Where several stand for one teacher value, the last one does: it has seen all that was inserted.
    """
    by_teacher: dict[str, Pair] = {}
    for op in student:
        pair = _pair(student, teacher, op)
        if pair is not None:
            by_teacher[pair.teacher] = pair
    return {pair.student: pair for pair in by_teacher.values()}


def _pair(student: Graph, teacher: Graph, op: Op) -> Pair | None:
    if op.kind == "input" or op.role == "tensor" or not op.lineage:
        return None
    name = op.lineage[-1]
    if name not in teacher or not _fits(
        _sizes(student, op), _sizes(teacher, teacher[name]), op.kept
    ):
        return None
    return Pair(op.name, name, dict(op.kept))


def _fits(
    ours: tuple[Size, ...], theirs: tuple[Size, ...], kept: Mapping[int, tuple[int, ...]]
) -> bool:
    """Whether selecting the kept indices gives the teacher's value the student's shape."""
    if len(ours) != len(theirs) or not ours or max(kept, default=0) >= len(ours):
        return False
    if isinstance(ours[0], int) or 0 in kept:  # no batch in front: its rows are no samples
        return False
    for dim, (size, full) in enumerate(zip(ours, theirs, strict=True)):
        indices = kept.get(dim)
        if indices is None:
            if size != full:
                return False
        elif len(indices) != size or not isinstance(full, int) or max(indices) >= full:
            return False
    return True


def _sizes(graph: Graph, op: Op) -> tuple[Size, ...]:
    """Shape of a float tensor with the width symbols filled in; empty for anything else."""
    if not isinstance(op.type, TensorType) or not op.type.dtype.is_floating_point:
        return ()
    return tuple(_filled(graph, size) for size in op.type.shape)


def _filled(graph: Graph, size: Size) -> Size:
    if isinstance(size, int):
        return size
    filled = size.subs({s: graph.widths.get(s.name, s) for s in size.free_symbols})
    return int(filled) if filled.is_Integer else filled


def choose_points(
    graph: Graph, output: str, candidates: Mapping[str, Pair], count: int
) -> list[str]:
    """Well-spread ends of blocks among the candidates, the last one always among them.

    A block ends where all paths of an input to the output meet (a dominator of the output) in an
    activation, a sum, or a value that several ops read: after a residual stage, between two
    transformer blocks, behind the activation of a plain layer. Each input is looked at by itself:
    a mask or positions that every block reads do not hide where the tokens go through, and two
    towers have their own ends.
    """
    ends = [name for name in block_ends(graph, output) if name in candidates]
    return evenly(ends, min(count, len(ends)))


def pairs_by_depth(
    student: Graph, teacher: Graph, outputs: tuple[str, str], count: int
) -> list[Pair]:
    """Ends of blocks, evenly spaced in both graphs, the last ones among them.

    An end that cannot be held against the one at the same depth is held against the nearest that
    it can: of the same rank, of the same size but for the last dimension, and for maps
    `[b, c, h, w]` of any size. A value of the teacher is in one pair at most.

    Args:
        student, teacher: the graphs.
        outputs: the values that are judged, one of each graph.
        count: of pairs, at most.
    """
    ours, theirs = (
        [name for name in block_ends(graph, output) if _forms_pairs(_sizes(graph, graph[name]))]
        for graph, output in zip((student, teacher), outputs, strict=True)
    )
    count = min(count, len(ours), len(theirs))
    pairs: dict[str, Pair] = {}
    for name, depth in zip(evenly(ours, count), evenly(range(len(theirs)), count), strict=True):
        sizes = _sizes(student, student[name])
        nearest = sorted(range(len(theirs)), key=lambda place: abs(place - depth))
        for place in nearest:
            other = theirs[place]
            if other not in pairs and _as_deep(sizes, _sizes(teacher, teacher[other])):
                pairs[other] = Pair(name, other, by_depth=True)
                break
    return list(pairs.values())


def evenly(values: Sequence[T], count: int) -> list[T]:
    """So many of them, evenly spaced, the last one always among them."""
    return [values[(i + 1) * len(values) // count - 1] for i in range(count)]


def _forms_pairs(sizes: tuple[Size, ...]) -> bool:
    """Vectors, sequences and maps, each sample by itself."""
    return 2 <= len(sizes) <= 4 and not isinstance(sizes[0], int)


def _as_deep(ours: tuple[Size, ...], theirs: tuple[Size, ...]) -> bool:
    """Whether they differ in what a projector and pooling make up for."""
    if len(ours) != len(theirs):
        return False
    return len(ours) == 4 or ours[:-1] == theirs[:-1]


def block_ends(graph: Graph, output: str) -> list[str]:
    """Ends of blocks, as `choose_points` has them, in the order of the graph."""
    found: set[str] = set()
    learned = _learned(graph)
    for op in (op for op in graph.inputs if graph.users(op.name)):
        for name, following in pairwise(_dominators(graph, op.name, output)):
            users = graph.users(name)
            alone = len(users) == 1 and users[0].name == following
            if _is_end(graph, name) and not (alone and _is_end(graph, following)):
                found.add(name)
    return [op.name for op in graph if op.name in found & learned]


def _is_end(graph: Graph, name: str) -> bool:
    op = graph[name]
    if op.kind == "input" or not isinstance(op.type, TensorType):
        return False
    return op.role == "activation" or op.kind == _SUM or len(graph.users(name)) > 1


def _learned(graph: Graph) -> set[str]:
    """Values that parameters have a part in: a mask made ready for use is none."""
    learned: set[str] = set()
    for op in graph:
        own = op.layer is not None and any(True for _ in op.layer.parameters())
        if own or any(name in learned for name in op.inputs):
            learned.add(op.name)
    return learned


def _dominators(graph: Graph, source: str, output: str) -> list[str]:
    """Values that every path from an input to `output` goes through, in order, `output` last."""
    above = nx.immediate_dominators(nx.DiGraph(graph.dag.edges()), source)
    chain, name = [], output
    while name in above and name != source:
        chain.append(name)
        name = above[name]
    return chain[::-1]
