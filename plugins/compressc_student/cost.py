"""What a student costs beside its teacher."""

from __future__ import annotations

from dataclasses import dataclass

from compressc.analysis import total_cost
from compressc.ir import Graph, dimension_symbols
from compressc.pipeline import Context


@dataclass(frozen=True)
class Beside:
    """Parameters and multiply-accumulates of a student and of its teacher.

    Attributes:
        parameters: (student's, teacher's).
        macs: of one run at `sizes`, likewise.
        sizes: of the open dimensions.
    """

    parameters: tuple[int, int]
    macs: tuple[int, int]
    sizes: dict[str, int]

    def share(self, of: str) -> float:
        """The student's share of the teacher's `parameters` or `macs`."""
        ours, theirs = getattr(self, of)
        return ours / theirs if theirs else 1.0

    def __str__(self) -> str:
        """`21,344 -> 13,840 parameters (65%), ... MACs (50%) at b=1, s=9`."""
        texts = []
        for of, title in (("parameters", "parameters"), ("macs", "MACs")):
            ours, theirs = getattr(self, of)
            texts.append(f"{theirs:,} -> {ours:,} {title} ({self.share(of):.0%})")
        at = ", ".join(f"{name}={size}" for name, size in self.sizes.items())
        return ", ".join(texts) + (f" at {at}" if at else "")


def beside(student: Graph, teacher: Graph, ctx: Context) -> Beside:
    """The costs of both for one sample of the data; open sizes are the least without data."""
    sizes = _sizes(teacher, ctx)
    ours, theirs = (total_cost(graph, **sizes) for graph in (student, teacher))
    parameters = (ours.parameters, theirs.parameters)
    return Beside(parameters, (ours.macs, theirs.macs), sizes)


def _sizes(graph: Graph, ctx: Context) -> dict[str, int]:
    places = dimension_symbols(graph)
    if ctx.data is None:
        return {name: graph.within_limits(name, 1) for name in places}
    inputs = ctx.data.calibration.take(1).inputs
    order = {op.name: i for i, op in enumerate(graph.inputs)}
    return {name: inputs[order[op]].shape[dim] for name, (op, dim) in places.items()}
