"""How deep and how wide a student of a given cost is best: students are tried for a few steps.

Of all that keep within the limit those are tried that are as wide as it allows, at up to four
depths. A short training tells more of a shape than its untrained weights do: a deeper cut begins
worse and may end better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from compressc.analysis import Beside, beside
from compressc.errors import CompresscError
from compressc.ir import Graph
from compressc.pipeline import Context
from compressc_student.proxy import distance

#: Depths that are tried at most, and widths, in tenths of the teacher's.
DEPTHS, TENTHS = 4, range(1, 10)

#: (graph, context, depth, width): makes a student of a graph in place.
Make = Callable[[Graph, Context, float, float], None]


@dataclass(frozen=True)
class Makers:
    """How students come about.

    Attributes:
        whole: makes one.
        sketch: makes one of the same sizes, whose weights nobody looks at.
    """

    whole: Make
    sketch: Make


@dataclass(frozen=True)
class Shape:
    """A student that was tried.

    Attributes:
        depth, width: shares of the blocks and of each width that stay.
        cost: beside the teacher's.
        distance: mean squared error of its answers over the variance of the teacher's, after the
            proxy; 1 for a constant answer. None where nothing else was to be had.
    """

    depth: float
    width: float
    cost: Beside
    distance: float | None = None

    def __str__(self) -> str:
        """As it is told."""
        shares = f"{self.cost.share('parameters'):.0%} of the parameters"
        shares += f" and {self.cost.share('macs'):.0%} of the MACs"
        return f"depth={self.depth:.3g}, width={self.width:.3g}: {shares}"


def search(  # noqa: PLR0913  (what of, within what, and how)
    graph: Graph, ctx: Context, limits: Mapping[str, float], blocks: int, steps: int, make: Makers
) -> Shape:
    """The shape within the limits whose student is nearest to the teacher after some steps.

    Args:
        graph: of the teacher; not changed.
        ctx: of the pass; it is told what was tried.
        limits: shares of the teacher's `parameters` and `macs` that a student may have.
        blocks: of the longest chain that may be cut; 1 where there is none.
        steps: of each training.
        make: how students come about.

    Raises:
        CompresscError: CC102 where no student is that small, naming the smallest one.
    """
    search_ = _Search(graph, ctx, limits, make)
    shapes = search_.shapes(blocks)
    if len(shapes) > 1:
        shapes = [replace(shape, distance=search_.tried(shape, steps)) for shape in shapes]
    for shape in shapes:
        after = f", distance {shape.distance:.4f} after {steps} steps" if shape.distance else ""
        ctx.note(graph.name, f"tried {shape}{after}")
    best = min(shapes, key=lambda shape: shape.distance or 0.0)
    why = "the nearest to the teacher" if len(shapes) > 1 else "the only one within the limit"
    chosen = f"student(depth={best.depth:.3g}, width={best.width:.3g})"
    ctx.note(graph.name, f"chose {chosen}: {why}")
    ctx.record(
        "student search",
        [
            {
                "depth": shape.depth,
                "width": shape.width,
                "parameters": shape.cost.share("parameters"),
                "macs": shape.cost.share("macs"),
                "distance": shape.distance,
            }
            for shape in shapes
        ],
    )
    return best


class _Search:
    """What students cost, each shape looked at once."""

    def __init__(
        self, graph: Graph, ctx: Context, limits: Mapping[str, float], make: Makers
    ) -> None:
        self.graph, self.ctx, self.limits, self.make = graph, ctx, limits, make
        self.seen: dict[tuple[float, float], Shape] = {}

    def shapes(self, blocks: int) -> list[Shape]:
        """The widest student within the limits at each depth, the deepest first."""
        found = [
            shape for depth in self._depths(blocks) if (shape := self._widest(depth)) is not None
        ]
        if not found:
            smallest = min(self.seen.values(), key=self._excess)
            raise CompresscError(
                "CC102",
                f"pass 'student' can make no student as small as {self._limits_text()}",
                got=f"{smallest} at least",
                hint="prune(normalized=True), lowrank, or student(factory=file.py:function)",
            )
        return found

    def tried(self, shape: Shape, steps: int) -> float:
        """The distance of the student of a shape after a training."""
        student = self.graph.copy()
        self.make.whole(student, _quiet(self.ctx), shape.depth, shape.width)
        return distance(student, self.ctx, steps, f"depth={shape.depth:.3g}")

    def _depths(self, blocks: int) -> list[float]:
        """Depths from the whole one to the first that is within the limits by itself, or the last.

        Evenly spread where there are many.
        """
        depths = []
        for count in range(blocks, 0, -1):
            depths.append(count / blocks)
            if self._fits(self._shape(depths[-1], 1.0)):
                break
        count = min(DEPTHS, len(depths))
        last = len(depths) - 1
        places = [round(i * last / max(1, count - 1)) for i in range(count)]
        return [depths[place] for place in dict.fromkeys(places)]

    def _widest(self, depth: float) -> Shape | None:
        """By halving: cost falls with the width."""
        if self._fits(whole := self._shape(depth, 1.0)):
            return whole
        low, high = TENTHS.start - 1, TENTHS.stop - 1  # `low` fits, or is no width
        if self._fits(self._shape(depth, high / 10)):
            return self._shape(depth, high / 10)
        while high - low > 1:
            middle = (low + high) // 2
            if self._fits(self._shape(depth, middle / 10)):
                low = middle
            else:
                high = middle
        return self._shape(depth, low / 10) if low in TENTHS else None

    def _shape(self, depth: float, width: float) -> Shape:
        key = depth, width
        if key not in self.seen:
            student = self.graph.copy()
            self.make.sketch(student, _quiet(self.ctx), depth, width)
            self.seen[key] = Shape(
                depth, width, beside(student, self.ctx.teacher, self.ctx.example())
            )
        return self.seen[key]

    def _excess(self, shape: Shape) -> float:
        return max(shape.cost.share(of) / limit for of, limit in self.limits.items())

    def _fits(self, shape: Shape) -> bool:
        return self._excess(shape) <= 1

    def _limits_text(self) -> str:
        return " and ".join(f"{limit:.0%} of the {of}" for of, limit in self.limits.items())


def _quiet(ctx: Context) -> Context:
    """A context whose notes and records nobody reads."""
    return replace(ctx, notes=[], records={})
