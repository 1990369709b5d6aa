"""What a model that was made smaller costs beside what it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from compressc.analysis.cost import total_cost
from compressc.ir import Graph, dimension_symbols


@dataclass(frozen=True)
class Beside:
    """Parameters, multiply-accumulates and bytes of a smaller model and of the larger one.

    Attributes:
        parameters: (of the smaller one, of the larger one).
        macs: of one run at `sizes`, likewise.
        bytes: of all tensors, likewise.
        sizes: of the open dimensions.
    """

    parameters: tuple[int, int]
    macs: tuple[int, int]
    bytes: tuple[int, int]
    sizes: dict[str, int]

    def share(self, of: str) -> float:
        """What is left of the larger one's `parameters`, `macs` or `bytes`."""
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


def beside(smaller: Graph, larger: Graph, inputs: Sequence[Tensor] | None) -> Beside:
    """The costs of both.

    Args:
        smaller, larger: graphs with the same open dimensions.
        inputs: of the model, one sample, which gives their sizes; None for the least there are.
    """
    sizes = sizes_of(larger, inputs)
    ours, theirs = (total_cost(graph, **sizes) for graph in (smaller, larger))
    return Beside(
        (ours.parameters, theirs.parameters),
        (ours.macs, theirs.macs),
        (ours.bytes, theirs.bytes),
        sizes,
    )


def sizes_of(graph: Graph, inputs: Sequence[Tensor] | None) -> dict[str, int]:
    """The open dimensions of a graph as inputs have them; the least that it takes without any."""
    places = dimension_symbols(graph)
    if inputs is None:
        return {name: graph.within_limits(name, 1) for name in places}
    order = {op.name: i for i, op in enumerate(graph.inputs)}
    return {name: inputs[order[op]].shape[dim] for name, (op, dim) in places.items()}
